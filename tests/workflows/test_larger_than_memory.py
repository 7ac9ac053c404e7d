"""A run whose model does not fit into memory reads it block by block, says so, and ends with what
could be measured without generating.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from finished_run import finished_run, scores_in, summary_in

from vectomy.checkpoint import Checkpoint
from vectomy.core.config import LoadIn, Runtime
from vectomy.core.errors import ConfigError, FinishedRunError, PreflightError
from vectomy.edits.edit import Edit
from vectomy.models import loaded_bytes
from vectomy.models.memory import largest_block
from vectomy.workflows.larger_than_memory import explain_layerwise, explain_too_large
from vectomy.workflows.run import run

TIER = "chat"
# Whole runs with checked signatures are those of test_run.py and test_evaluation.py.
pytestmark = pytest.mark.usefixtures("unchecked")

SETTINGS = {"device": "cpu", "recipe": "gradient", "steps": 20}


def sources() -> dict[str, str]:
    return tiny_chat.sources()


@cache
def finished() -> tuple[Path, list[str]]:
    """A run with less memory than the interpreter takes, and what it said."""
    out = tiny_chat.scratch() / "run"
    said: list[str] = []
    run(str(tiny_chat.folder()), out, **sources(), **SETTINGS, max_memory="1MB", log=said.append)
    return out, said


def test_it_says_why_with_the_numbers() -> None:
    _, said = finished()
    (sentence,) = [line for line in said if "block by block" in line]
    assert "0 bytes are free (--max-memory 1MB)" in sentence
    assert "16 tokens" in sentence


def test_the_edit_is_that_of_the_resident_run() -> None:
    out, _ = finished()
    resident = finished_run(**SETTINGS, answer_tokens=16)
    own, other = (Edit.load(folder / "edit.safetensors") for folder in (out, resident))
    assert scores_in(out)["chosen"] == scores_in(resident)["chosen"]
    assert float(own.main_direction @ other.main_direction) == pytest.approx(1, abs=1e-5)
    for one, two in zip(own.operations, other.operations, strict=True):
        assert one.strengths.tolist() == pytest.approx(two.strengths.tolist(), abs=1e-4)


def test_the_summary_says_what_was_measured_instead_of_answers() -> None:
    out, _ = finished()
    summary = summary_in(out)
    resident = summary_in(finished_run(**SETTINGS, answer_tokens=16))
    assert any("were not generated" in note for note in summary["notes"])
    assert not any("were not generated" in note for note in resident["notes"])
    assert summary["settings"]["answer_tokens"] == 16
    # The base answered; of the edited model nothing was generated, and no zero stands for it.
    assert summary["base"]["refusal_count"] == resident["base"]["refusal_count"] > 0
    edited = summary["edited"]
    assert edited.get("refusal_rate") is None
    assert edited["opening_total"] == resident["edited"]["refusal_total"]
    assert edited["opening_rate"] == resident["edited"]["refusal_rate"]
    # Less than half: a prompt counts as left from there.
    assert edited["opening_kept"] < 0.5
    for name in ("kl_first_token", "kl_per_token", "ce_own_answers", "max_projection"):
        assert edited[name] == pytest.approx(resident["edited"][name], rel=0.02, abs=1e-4)
    assert summary["outcome"]["effect"] == "not_measured"
    rows = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    assert all("base" in row and "hooks" not in row and "baked" not in row for row in rows)
    page = (out / "report.html").read_text()
    assert "were not generated" in page
    receipt = json.loads((out / "receipt.json").read_text())
    assert len(receipt["projection"]) == 5


def test_what_is_finished_is_not_done_again_and_more_memory_measures_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    said: list[str] = []
    settings = {**sources(), **SETTINGS, "steps": 4, "answer_tokens": 8}
    run(str(tiny_chat.folder()), out, **settings, max_memory="1MB", until="select")
    run(str(tiny_chat.folder()), out, **settings, max_memory="2MB", until="select", log=said.append)
    assert [line.partition(":")[0] for line in said if "not run again" in line] == [
        "baseline",
        "collect",
        "directions",
        "select",
    ]
    said.clear()
    # Rates by openings are no rates by answers: they are not silently kept.
    with pytest.raises(FinishedRunError, match="select"):
        run(str(tiny_chat.folder()), out, **settings, until="select")
    run(str(tiny_chat.folder()), out, **settings, until="select", overwrite=True, log=said.append)
    assert [line.partition(":")[0] for line in said if "not run again" in line] == [
        "baseline",
        "collect",
        "directions",
    ]


@pytest.mark.parametrize("recipe", ["arditi", "article", "tpe", "cosmic"])
def test_other_recipes_say_what_they_need(tmp_path: Path, recipe: str) -> None:
    with pytest.raises(PreflightError, match=rf"the recipe {recipe} .* --recipe gradient"):
        run(str(tiny_chat.folder()), tmp_path / "run", **sources(), recipe=recipe, max_memory="1MB")


def test_an_adapter_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    options: dict[str, Any] = {**sources(), **SETTINGS, "lora": True, "embeddings": False}
    with pytest.raises(PreflightError, match=r"vectomy apply .* --as lora"):
        run(str(tiny_chat.folder()), tmp_path / "run", **options, max_memory="1MB")


@pytest.mark.parametrize("size", ["much", "0GB", "-1GB", "1.5 quarts"])
def test_a_size_that_is_none_is_named(tmp_path: Path, size: str) -> None:
    with pytest.raises(ConfigError, match=r"max_memory.* is '.*': input should be a number of bytes"):
        run("demo", tmp_path / "run", max_memory=size)


def test_what_can_never_fit_is_refused_before_it_is_read_with_the_numbers() -> None:
    """Not two blocks fit: no run. Two blocks fit: block by block. All of it does: as a whole."""
    checkpoint, runtime = Checkpoint.open(tiny_chat.folder()), Runtime(device="cpu", dtype="float32")
    blocks = 2 * largest_block(checkpoint)
    with pytest.raises(PreflightError, match=r"for two blocks of weights, so that it can never fit: close"):
        explain_layerwise(checkpoint, "gradient", runtime, available=blocks * 9 // 10)
    assert "read block by block" in str(explain_layerwise(checkpoint, "gradient", runtime, available=blocks))
    assert explain_layerwise(checkpoint, "gradient", runtime, available=2 * checkpoint.bytes) is None


@pytest.mark.parametrize(("load_in", "remedy"), [("8bit", "use --load-in 4bit"), ("4bit", "leave it out")])
def test_quantised_weights_that_do_not_fit_are_not_read_in_full_precision(
    load_in: LoadIn, remedy: str
) -> None:
    """Such a run said that it had searched on 4 bits."""
    checkpoint = Checkpoint.open(tiny_chat.folder())
    runtime = Runtime(device="cpu", dtype="float32", load_in=load_in)
    # All of it is more than weights may take of what is free.
    available = loaded_bytes(checkpoint, "float32", "cpu", load_in)
    with pytest.raises(PreflightError, match=rf"with --load-in {load_in}, .* full precision: {remedy}"):
        explain_layerwise(checkpoint, "gradient", runtime, available=available)


def test_an_evaluation_of_what_does_not_fit_is_refused_before_it_is_read() -> None:
    checkpoint, runtime = Checkpoint.open(tiny_chat.folder()), Runtime(device="cpu", dtype="float32")
    said = explain_too_large(checkpoint, runtime, available=checkpoint.bytes // 4)
    assert "this command needs it whole: use a larger machine" in str(said)
    assert explain_too_large(checkpoint, runtime, available=2 * checkpoint.bytes) is None
