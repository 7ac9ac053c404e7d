"""`--dry-run` changes nothing, and says what the command itself then does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import published
import pytest
import tiny_chat
from tiny import file_hashes

if TYPE_CHECKING:
    from command_line import Vectomy

TIER = "chat"

QUICK = (
    *("--device", "cpu", "--answer-tokens", "8", "--behaviour-tokens", "I", "--layer-fraction", "1.0"),
    *("--n-search", "4", "--n-test", "4", "--recipe", "arditi"),
)


def words(out: Path, *more: str) -> list[str]:
    sources = tiny_chat.sources()
    sides = ("--positive", sources["positive"], "--negative", sources["negative"])
    return ["run", str(tiny_chat.folder()), "--out", str(out), *sides, *QUICK, *more]


def test_a_dry_run_of_a_run_is_what_the_run_does(tmp_path: Path, vectomy: Vectomy) -> None:
    out = tmp_path / "run"
    status, printed, err = vectomy(*words(out, "--dry-run", "--json"))
    assert status == 0, err
    assert not out.exists()
    planned = json.loads(printed)
    assert (planned["out"], planned["exists"]) == (str(out), False)
    assert not any(stage["done"] for stage in planned["stages"])
    assert any(
        reads.startswith("positive prompts: ") and "4 to test on" in reads for reads in planned["reads"]
    )
    assert vectomy(*words(out, "--yes", "--json"))[0] == 0
    for stage in planned["stages"]:
        assert (out / "stages" / f"{stage['name']}.json").exists()
        assert all((out / name).exists() for name in stage["writes"]), stage
    weights = sum(file.stat().st_size for file in (out / "checkpoint").glob("*.safetensors"))
    # The files have a header, too.
    assert planned["written_bytes"] == pytest.approx(weights, rel=0.1)
    before = file_hashes(out)
    for more, done in (((), True), (("--answer-tokens", "6"), False)):
        again = json.loads(vectomy(*words(out, "--dry-run", "--json", *more))[1])
        assert again["exists"]
        assert again["stages"][0]["done"] == done
    assert file_hashes(out) == before
    text = vectomy(*words(out, "--dry-run"))[1]
    assert "stage 1  baseline: done before" in text
    assert text.endswith("nothing was changed (--dry-run)\n")


@pytest.mark.parametrize(("form", "known"), [("checkpoint", True), ("lora", False), ("gguf-lora", False)])
def test_a_dry_run_of_apply_names_model_edit_and_size(
    form: str, known: bool, tmp_path: Path, vectomy: Vectomy
) -> None:
    run, base, out = published.finished(), published.base(), tmp_path / "edited"
    command = ("apply", str(run), str(base), "--out", str(out), "--as", form)
    status, printed, err = vectomy(*command, "--dry-run", "--json")
    assert status == 0, err
    assert not out.exists()
    planned = json.loads(printed)
    assert (planned["written_bytes"] is not None) == known
    assert any("operations" in reads for reads in planned["reads"])
    if form == "checkpoint":
        assert vectomy(*command, "--no-verify")[0] == 0
        weights = sum(file.stat().st_size for file in out.glob("*.safetensors"))
        assert planned["written_bytes"] == pytest.approx(weights, rel=0.1)


def test_a_dry_run_stops_where_the_command_would(tmp_path: Path, vectomy: Vectomy) -> None:
    run, out = published.finished(), tmp_path / "edited"
    status, _, err = vectomy("apply", str(run), str(run / "checkpoint"), "--out", str(out), "--dry-run")
    assert status == 1
    assert "Use the base it was made for" in err
    status, _, err = vectomy(*words(out, "--dry-run", "--positive", "none.txt"))
    assert status == 1
    assert "none.txt" in err
    assert not out.exists()


def test_a_dry_run_of_heal_lists_its_stages_and_deletes_nothing(tmp_path: Path, vectomy: Vectomy) -> None:
    out, sources = tmp_path / "healed", tiny_chat.sources()
    (out / "kept").mkdir(parents=True)
    held_out = ("--positive-test", sources["positive"], "--negative-test", sources["negative"])
    command = (
        *("heal", str(published.finished()), "--out", str(out), "--preferences", "own", *held_out),
        *("--prompts", sources["negative"], "--device", "cpu", "--answer-tokens", "8", "--test-limit", "4"),
    )
    status, printed, err = vectomy(*command, "--restart", "--dry-run", "--json")
    assert status == 0, err
    planned = json.loads(printed)
    names = ["edited", "rows", "train", "merge", "measure", "report"]
    assert [stage["name"] for stage in planned["stages"]] == names
    assert planned["written_bytes"] > 0
    assert [path.name for path in out.iterdir()] == ["kept"]


@pytest.mark.parametrize("model", ["owner/nothing", "demo"])
def test_a_dry_run_fetches_and_builds_no_model(
    model: str, tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("VECTOMY_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out, edit = tmp_path / "out", str(published.finished())
    edit = str(Path(edit) / "edit.safetensors")
    for words in (
        ("run", model, "--out", str(out)),
        ("apply", edit, model, "--out", str(out)),
        ("heal", model, "--edit", edit, "--out", str(out)),
    ):
        status, printed, err = vectomy(*words, "--dry-run", "--json")
        assert status == 0, (words, err)
        assert json.loads(printed)["reads"][0].startswith(f"{model}: ")
        assert not out.exists()
        assert not cache.exists()
