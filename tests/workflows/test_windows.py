"""The whole job under the rules of Windows (tests/helpers/windows_rules.py): run, killed within the
bake and resumed, apply, verify, evaluate, report. It ends in the bytes of a run without them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_chat
import windows_rules
from finished_run import finished_run
from tiny import file_hashes

TIER = "chat"

# Files that hold seconds or paths.
TIMED = ("stages/", "summary.json", "report.html", "README.md", "MODEL_CARD.md", "settings.json")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the rules look at /proc")


def under_windows_rules(
    folder: Path, commands: list[list[str]], kill: str = ""
) -> subprocess.CompletedProcess[str]:
    words = [windows_rules.__file__, str(folder), json.dumps(commands), *([kill] if kill else [])]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def results(out: Path) -> dict[str, str]:
    hashes = file_hashes(out)
    return {name: digest for name, digest in hashes.items() if not any(part in name for part in TIMED)}


def test_the_whole_job_runs_under_the_rules_of_windows(tmp_path: Path) -> None:
    model, given, out = str(tiny_chat.folder()), tiny_chat.sources(), str(tmp_path / "run")
    prompts = ["--positive", given["positive"], "--negative", given["negative"]]
    options = ["--device", "cpu", "--answer-tokens", "8", "--recipe", "arditi", "--layer-fraction", "1.0"]
    run = ["run", model, "--out", out, *prompts, *options, "--yes"]
    # The second run replaces what the first one wrote.
    killed = under_windows_rules(
        tmp_path, [[*run, "--seed", "1", "--no-bake"], [*run, "--overwrite"]], kill="model.safetensors"
    )
    assert killed.returncode == -9, killed.stderr[-2000:]
    # Within the bake: what Windows would leave open lies there.
    assert (tmp_path / "run" / ".checkpoint.baking").is_dir()

    edit, baked, measured = f"{out}/edit.safetensors", str(tmp_path / "baked"), str(tmp_path / "measured")
    evaluate = ["evaluate", model, edit, baked, "--prompts", f"night={given['positive']}", "--limit", "2"]
    commands = [
        run,
        ["apply", edit, model, "--out", baked],
        ["verify", baked, "--edit", edit, "--base", model, "--device", "cpu"],
        [
            *evaluate,
            "--out",
            measured,
            "--device",
            "cpu",
            "--answer-tokens",
            "8",
            "--no-tool-calls",
            "--no-controls",
        ],
        ["report", out],
    ]
    done = under_windows_rules(tmp_path, commands)
    assert done.returncode == 0, done.stderr[-3000:]
    assert results(tmp_path / "run") == results(finished_run())
    assert json.loads((tmp_path / "measured" / "evaluation.json").read_text(encoding="utf-8"))["results"]
    assert (
        file_hashes(tmp_path / "baked")["model.safetensors"]
        == results(finished_run())["checkpoint/model.safetensors"]
    )
    texts = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".jsonl", ".html", ".md")]
    assert texts
    assert not [path for path in texts if b"\r\n" in path.read_bytes()]
