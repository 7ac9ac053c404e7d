"""What `vectomy evaluate` refuses, and how it names its subjects."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from tiny import build
from tiny_evaluation import QUICK, go, places

from vectomy.cli import main
from vectomy.core.errors import (
    ArtifactError,
    CheckpointError,
    ConfigError,
    FingerprintError,
    PreflightError,
    PromptError,
    UsageError,
)
from vectomy.core.evaluation_config import parse_evaluation
from vectomy.workflows.evaluate import model_cache as live
from vectomy.workflows.evaluate.evaluation import evaluate_models
from vectomy.workflows.evaluate.subjects import open_subjects

TIER = "chat"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["evaluate", "demo", "--out", "o"], "--prompts"),
        (["evaluate", "--prompts", "p", "--out", "o"], "SUBJECT"),
        (["evaluate", "demo", "--prompts", "p"], "--out"),
        (["evaluate", "demo", "--prompts", "p", "--out", "o", "--budgets", "few"], "budgets"),
        (["evaluate", "demo", "--prompts", "p", "--out", "o", "--limit", "0"], "limit"),
    ],
)
def test_bad_usage_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    monkeypatch.setattr("sys.argv", ["vectomy", *given])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


# What is refused


def refused(tmp_path: Path, error: type[Exception], match: str, **values: Any) -> None:
    given = {"subjects": [places()["tiny"]], "prompts": [places()["night"]], **QUICK, **values}
    with pytest.raises(error, match=match):
        evaluate_models(parse_evaluation(given), tmp_path / "out")
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_tool_prompts_that_exceed_learned_positions_are_refused_before_work(tmp_path: Path) -> None:
    """Computed positions have no hard end: there they are measured, with a note."""
    folder = build(tmp_path / "m", "gpt2", vocab_size=len(tiny_chat.VOCABULARY)).folder
    tiny_chat.tokenizer().save_pretrained(folder)
    match = r"exceed the 64 positions .*--no-tool-calls"
    refused(tmp_path, PromptError, match, subjects=[str(folder)], tool_calls=True)
    assert not (tmp_path / "out" / "cache").exists()


REFUSED = {
    "no prompts": (ConfigError, "'prompts'", {"prompts": []}),
    "no subjects": (ConfigError, "'subjects'", {"subjects": []}),
    "missing prompts": (PromptError, "/none.jsonl", {"prompts": ["/none.jsonl"]}),
    "neither": (UsageError, "'/none' is nothing to evaluate", {"subjects": ["/none"]}),
    "unknown judge": (UsageError, "there is no judge 'magic'", {"judge": "magic"}),
    "missing text": (PromptError, "/none.txt cannot be read", {"texts": ["/none.txt"]}),
    "bad strength": (UsageError, "after the @ come strengths", {"subjects": ["TINY", "EDIT@much"]}),
    "strength of a model": (UsageError, "only Edits take strengths after an @", {"subjects": ["TINY@2"]}),
    "no model": (UsageError, "no model to compare with", {"subjects": ["EDIT"]}),
    "base is no model": (UsageError, "no model to compare with", {"subjects": ["TINY"], "base": "EDIT"}),
    "edit of another": (FingerprintError, "those of no model here", {"subjects": ["BAKED", "EDIT"]}),
    "empty folder": (CheckpointError, "empty", {"subjects": ["EMPTY"]}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named(tmp_path: Path, case: str) -> None:
    error, match, values = REFUSED[case]
    (tmp_path / "empty").mkdir()
    stands = {
        "TINY": places()["tiny"],
        "EDIT": places()["edit"],
        "BAKED": places()["baked"],
        "EMPTY": str(tmp_path / "empty"),
    }

    def real(text: str) -> str:
        for name, path in stands.items():
            text = text.replace(name, path)
        return text

    changed = {
        key: [real(one) for one in value] if isinstance(value, list) else real(value)
        for key, value in values.items()
    }
    refused(tmp_path, error, match, **changed)


def test_an_adapter_that_could_not_be_loaded_is_said_before_the_base_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(live, "load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(
        PreflightError, match=r"adapter needs the package peft: pip install 'vectomy\[lora\]'"
    ):
        go(tmp_path / "evaluation", ["tiny", "adapter"])


def test_a_folder_that_is_not_its_own_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "stages").mkdir(parents=True)
    refused(tmp_path, ArtifactError, "has an evaluation of its own")
    shutil.rmtree(out)
    out.write_text("mine")
    plain = {"subjects": [places()["tiny"]], "prompts": [places()["night"]], **QUICK}
    with pytest.raises(ArtifactError, match="is a file"):
        evaluate_models(parse_evaluation(plain), out)
    with pytest.raises(ArtifactError, match="part of the path is a file"):
        evaluate_models(parse_evaluation(plain), out / "below")


def test_subjects_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(places()["tiny"], tmp_path / name / "checkpoint")
        shutil.copy(places()["edit"], tmp_path / name / "edit.safetensors")
        shutil.copy(places()["edit"], tmp_path / name / f"{Path(places()['baked']).name}.safetensors")
    given = [
        "a/checkpoint",
        "b/checkpoint",
        "a",
        "a/edit.safetensors",
        "b/edit.safetensors",
        "b/baked.safetensors",
    ]
    found = open_subjects([*(str(tmp_path / name) for name in given), places()["baked"]])
    assert [one.name for one in found] == [
        "a/checkpoint",
        "b/checkpoint",
        "a",
        "edit",
        "edit (2)",
        "baked (2)",
        "baked",
    ]
    assert {one.baseline for one in found[1:]} == {"a/checkpoint"}


def test_a_base_of_its_own_comes_first_and_once() -> None:
    found = open_subjects([places()["baked"], places()["edit"], places()["tiny"]], base=places()["tiny"])
    assert [one.kind for one in found] == ["base", "model", "edit"]
    assert found[0].name == Path(places()["tiny"]).name
    assert found[2].note == "found on owls and suns"
