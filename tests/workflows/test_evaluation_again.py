"""Nothing is measured twice, and a killed evaluation ends with the same bytes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import file_hashes
from tiny_evaluation import QUICK, go, places, undisturbed, without_seconds

from vectomy.core.evaluation_config import parse_evaluation
from vectomy.core.jsonl import read_jsonl
from vectomy.models import ChatModel
from vectomy.workflows.evaluate import model_cache as live
from vectomy.workflows.evaluate.evaluation import evaluate_models

TIER = "chat"
# Whole runs with checked signatures are those of test_run.py and test_evaluation.py.
pytestmark = pytest.mark.usefixtures("unchecked")


class Calls:
    """Counts the answers that are generated, and stops at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> None:
        self.prompts, self.calls = 0, 0
        real = ChatModel.answer

        def answer(chat: ChatModel, tokens: Any, *given: Any, **more: Any) -> Any:
            if self.calls == stop:
                raise KeyboardInterrupt
            self.calls += 1
            self.prompts += len(tokens)
            return real(chat, tokens, *given, **more)

        monkeypatch.setattr(ChatModel, "answer", answer)


@pytest.mark.parametrize("stop", [0, 3, 7, 9])
def test_a_killed_evaluation_goes_on_to_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: int
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        calls = Calls(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            go(out, ["tiny", "edit@0.5,1"])
        done = calls.prompts
    assert not (out / "evaluation.json").exists()
    calls = Calls(monkeypatch)
    go(out, ["tiny", "edit@0.5,1"])
    # 4 subjects on 20 prompts, the base again on 12; none that was answered before was answered
    # again, but for half a noise floor.
    assert 92 <= calls.prompts + done <= 92 + 3
    plain, _ = undisturbed()
    assert without_seconds(out) == without_seconds(plain)
    assert file_hashes(out)["completions.jsonl"] == file_hashes(plain)["completions.jsonl"]
    assert not list(out.rglob("*.partial"))


def test_one_subject_more_measures_only_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain, before = undisturbed()
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    calls = Calls(monkeypatch)
    found = go(out, ["tiny", "edit@0.5,1,2"])
    assert calls.prompts == 20
    assert set(found["results"]) == set(before["results"]) | {"edit@2"}
    assert all(found["results"][name] == numbers for name, numbers in before["results"].items())


def test_the_same_again_loads_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain, _ = undisturbed()
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    monkeypatch.setattr(live, "load_model", None)
    told: list[str] = []
    config = {
        "subjects": [places()["tiny"], places()["edit"] + "@0.5,1"],
        "prompts": [places()["night"], places()["day"]],
    }
    evaluate_models(
        parse_evaluation({**config, **QUICK, "batch_tokens": 128}), out, command="c", log=told.append
    )
    again = without_seconds(out)
    assert again["settings"].pop("batch_tokens") == 128
    first = without_seconds(plain)
    first["settings"].pop("batch_tokens")
    assert again == first
    assert "92 answers of up to 8 tokens, 92 of them kept from before" in told[0]


def test_other_settings_and_prompts_are_measured_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, _ = undisturbed()
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    calls = Calls(monkeypatch)
    go(out, ["tiny"], controls=False, answer_tokens=5, sets=("night",), overwrite=True)
    assert calls.prompts == 10
    go(out, ["tiny"], controls=False, limit=4, sets=("night",), overwrite=True)
    assert calls.prompts == 14
    go(out, ["tiny"], controls=False, budgets=(2, 4), sets=("night",), overwrite=True)
    assert calls.prompts == 14


def test_a_limit_is_the_same_sample_for_all(tmp_path: Path) -> None:
    go(tmp_path / "out", ["tiny", "edit"], limit=4, sets=("night",))
    rows = read_jsonl(tmp_path / "out" / "completions.jsonl")
    assert len(rows) == 4
    assert all(len(row["answers"]) == 4 for row in rows)
    assert len({row["prompt"] for row in rows}) == 4
