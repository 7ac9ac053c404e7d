"""A run that was cut off anywhere and started again ends in the same bytes as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from tiny import file_hashes

from vectomy.cli import main
from vectomy.workflows import run as run_module
from vectomy.workflows.run import STAGES, run

TIER = "chat"
# Whole runs with checked signatures are those of test_run.py and test_evaluation.py.
pytestmark = pytest.mark.usefixtures("unchecked")

KILLS = 14
OPTIONS = {"device": "cpu", "answer_tokens": 8, "n_search": 4, "n_test": 4, "complete": True, "steps": 6}
# Seconds, and the pages that print them, differ from run to run; so do the records that hold
# seconds.
TIMED = ("stages/", "summary.json", "report.html", "MODEL_CARD.md", "README.md")


def results(out: Path) -> dict[str, str]:
    return {
        name: digest for name, digest in file_hashes(out).items() if not any(timed in name for timed in TIMED)
    }


def nothing_half(out: Path) -> None:
    """No partial file and no folder in the making, at the end of a run."""
    names = [path.name for path in out.rglob("*")]
    assert not [name for name in names if "partial" in name or "baking" in name or name.endswith(".journal")]


@cache
def undisturbed() -> Path:
    out = tiny_chat.scratch() / "run"
    run(str(tiny_chat.folder()), out, **tiny_chat.sources(), **OPTIONS)
    return out


@cache
def storm() -> tuple[Path, dict[str, Any]]:
    folder = tiny_chat.scratch()
    picks = random.Random(7)
    # After each number of finished stages in turn, in a seeded place within the next stage.
    moments = [(index % len(STAGES), picks.random()) for index in range(KILLS)]
    options = json.dumps({**tiny_chat.sources(), **OPTIONS})
    words = [
        str(Path(__file__).parents[1] / "helpers" / "fork_storm.py"),
        str(tiny_chat.folder()),
        str(folder),
    ]
    done = subprocess.run(
        [sys.executable, *words, options, json.dumps(moments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("at", range(KILLS))
def test_a_run_killed_at_any_moment_and_run_again_ends_in_the_same_bytes(at: int) -> None:
    folder, _ = storm()
    out = folder / f"killed-{at}"
    assert results(out) == results(undisturbed())
    assert "edit.safetensors" in results(out)
    assert "checkpoint/model.safetensors" in results(out)
    nothing_half(out)
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["stages"]) == set(STAGES[:-1])


def test_the_kills_fell_on_the_whole_run() -> None:
    """Otherwise the tests above would show nothing: most children died, at several depths."""
    events = storm()[1]["events"]
    assert sum(event["killed"] for event in events) >= KILLS * 5 // 6
    assert len({len(event["stages"]) for event in events}) >= 4


def test_a_run_killed_again_and_again_ends_in_the_same_bytes() -> None:
    folder, _ = storm()
    assert results(folder / "killed-often") == results(undisturbed())
    nothing_half(folder / "killed-often")


# Ctrl-C

INTERRUPTED = "vectomy: interrupted; finished work is kept, and the same command resumes from there"


def arguments(out: Path) -> list[str]:
    given = tiny_chat.sources()
    words = [
        "run",
        str(tiny_chat.folder()),
        "--out",
        str(out),
        "--positive",
        given["positive"],
        "--negative",
        given["negative"],
    ]
    return [
        *words,
        "--device",
        "cpu",
        "--answer-tokens",
        "8",
        "--n-search",
        "4",
        "--n-test",
        "4",
        "--steps",
        "6",
        "--complete",
        "--yes",
    ]


def interrupted_in(stage: str, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """The next run stops in `stage`, before its work or just after it, as Ctrl-C would stop it."""
    work = getattr(run_module, f"run_{stage}")

    def stopped(self: Any) -> None:
        if after:
            work(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, f"run_{stage}", stopped)


def called(out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["vectomy", *arguments(out)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_ctrl_c_in_any_stage_leaves_a_sentence_and_the_next_run_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run, stopped before and after each stage in turn: every start resumes from what
    the stops before it left.
    """
    out = tmp_path / "run"
    for index, (stage, after) in enumerate(product(STAGES, (False, True))):
        with monkeypatch.context() as patch:
            interrupted_in(stage, patch, after)
            assert called(out, patch) == 130, (stage, after)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vectomy: ")]
        assert lines == [INTERRUPTED], (stage, after)
        nothing_half_named(out)
        finished = {path.stem for path in (out / "stages").glob("*.json")}
        assert finished == set(STAGES[: index // 2]), (stage, after)
    assert called(out, monkeypatch) == 0
    assert results(out) == results(undisturbed())
    nothing_half(out)


def nothing_half_named(out: Path) -> None:
    """A file with its final name is whole: it equals the file of an undisturbed run."""
    whole = results(undisturbed())
    for name, digest in results(out).items():
        assert name not in whole or whole[name] == digest, name
    assert not list(out.rglob("*.partial"))


def test_a_real_sigint_ends_a_real_command(tmp_path: Path) -> None:
    """Sent when the first stage is done; the command line says its sentence and returns 130."""
    out = tmp_path / "run"
    program = """
import time
from vectomy.cli import main
from vectomy.workflows import run
collect = run.run_collect
run.run_collect = lambda self: (time.sleep(30), collect(self))
main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell in the background hands "ignore Ctrl-C" down to all its children, and so perhaps
        # to this test.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 120
        while not (out / "stages" / "baseline.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("vectomy: interrupted;")
    assert "Traceback" not in errors
    nothing_half_named(out)
    run(str(tiny_chat.folder()), out, **tiny_chat.sources(), **OPTIONS)
    assert results(out) == results(undisturbed())
