"""A stage runs again exactly when what it depends on changed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from finished_run import summary_in
from safetensors.torch import load_file, save_file
from tiny import file_hashes
from tiny_chat import DAY, NIGHT
from watched_run import finished_copy, finished_with, go

from vectomy.core.errors import FinishedRunError
from vectomy.workflows import run as run_module
from vectomy.workflows import stages
from vectomy.workflows.run import STAGES

TIER = "chat"
# Whole runs with checked signatures are those of test_run.py and test_evaluation.py.
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return finished_copy(tmp_path)


class Watch:
    """Which stages work and which are reused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        for stage in STAGES:
            self._wrap(monkeypatch, stage, getattr(run_module, f"run_{stage}"))

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, stage: str, work: Any) -> None:
        def watched(run: Any) -> None:
            self.done.append(stage)
            work(run)

        monkeypatch.setattr(run_module, f"run_{stage}", watched)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


# What runs again


def test_a_second_run_does_nothing_again_not_even_load_the_model(
    copy: Path, watch: Watch, monkeypatch
) -> None:
    monkeypatch.setattr(stages, "load_model", lambda *_, **__: pytest.fail("loaded"))
    before = file_hashes(copy)
    assert go(copy) == summary_in(finished_with())
    assert watch.done == []
    assert file_hashes(copy) == before


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 3}, "baseline"),
    "answers": ({"answer_tokens": 7}, "baseline"),
    "batches": ({"batch_tokens": 64}, "report"),
    "tokens": ({"behaviour_tokens": ["I", "can't"]}, "baseline"),
    "covariance": ({"covariance": True}, "collect"),
    "samples": ({"keep_activations": True}, "collect"),
    "estimator": ({"estimator": "difference_of_means"}, "directions"),
    "threshold": ({"kl_threshold": 1e-5}, "select"),
    "fraction": ({"layer_fraction": 0.9}, "select"),
    "complete": ({"complete": True}, "select"),
    "bake": ({"bake": False}, "apply"),
    "command": ({"command": "vectomy run tiny"}, "report"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_option_reruns_what_depends_on_it_and_no_more(copy: Path, watch: Watch, case: str) -> None:
    options, first = CHANGES[case]
    if first != "report":
        before = file_hashes(copy)
        with pytest.raises(FinishedRunError, match=f"{next(iter(options))}: .* -> .*--overwrite"):
            go(copy, **options)
        assert (watch.done, file_hashes(copy)) == ([], before)
    go(copy, overwrite=first != "report", **options)
    assert watch.done == list(STAGES[STAGES.index(first) :])


def test_a_changed_threshold_changes_the_choice(copy: Path, tmp_path: Path) -> None:
    """Going on in a folder gives what a fresh folder gives."""
    options = {"layer_fraction": 0.75, "induce_threshold": -3.0}
    again, fresh = go(copy, overwrite=True, **options), go(tmp_path / "fresh", **options)
    assert again["direction"] == fresh["direction"] != summary_in(finished_with())["direction"]


def swapped(path: Path, side: str, at: int) -> dict[str, str]:
    """The same prompt files with one prompt of one side replaced by a new one."""
    given = tiny_chat.sources()
    rows = json.loads(Path(given[side]).read_text(encoding="utf-8"))
    rows[at] = tiny_chat.texts(NIGHT if side == "positive" else DAY)[-1]
    file = path / f"{side}.json"
    file.write_text(json.dumps(rows))
    return {**given, side: str(file)}


def split_of(out: Path, side: str, split: str) -> int:
    """The place in the prompt file of a prompt that went to `split`."""
    prompt = json.loads((out / "prompts.json").read_text())[side][split][0]
    rows = json.loads(Path(tiny_chat.sources()[side]).read_text(encoding="utf-8"))
    return rows.index(prompt if isinstance(prompt, str) else prompt["text"])


@pytest.mark.parametrize(
    ("split", "first"),
    [("fit", "baseline"), ("search", "baseline"), ("test", "evaluate")],
    ids=lambda value: value,
)
def test_a_changed_prompt_reruns_what_it_is_used_in(
    copy: Path, tmp_path: Path, watch: Watch, split: str, first: str
) -> None:
    given = swapped(tmp_path, "negative", split_of(copy, "negative", split))
    again = go(copy, overwrite=True, **given)
    assert watch.done[0] == first
    assert watch.done == list(STAGES[STAGES.index(first) :])
    fresh = go(tmp_path / "fresh", **given)
    for name in ("edit.safetensors", "completions.jsonl", "evaluation.json", "directions.safetensors"):
        assert (copy / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert again["edited"] == fresh["edited"]


def test_another_model_in_the_same_folder_reruns_everything(copy: Path, tmp_path: Path, watch: Watch) -> None:
    """The other model answers alike, so that its baseline is the same to the byte."""
    model = Path(shutil.copytree(tiny_chat.folder(), tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.001
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    baseline = (copy / "baseline.json").read_bytes()
    go(copy, model=model, overwrite=True)
    assert (copy / "baseline.json").read_bytes() == baseline
    assert watch.done == list(STAGES)
    assert (copy / "edit.safetensors").read_bytes() != (finished_with() / "edit.safetensors").read_bytes()


OUTPUTS = {
    "baseline.json": "baseline",
    "activations-negative.safetensors": "collect",
    "directions.safetensors": "directions",
    "edit.safetensors": "select",
    "scores.json": "select",
    "checkpoint/model.safetensors": "apply",
    "evaluation.json": "evaluate",
    "report.html": "report",
}


@pytest.mark.parametrize("how", ["gone", "changed"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_lost_or_changed_file_is_made_again_as_it_was(
    copy: Path, watch: Watch, name: str, how: str
) -> None:
    """Only its own stage runs: it makes the same bytes, so the later ones stand."""
    if how == "gone":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(b"other")
    go(copy)
    assert watch.done[0] == OUTPUTS[name]
    assert set(watch.done) <= {OUTPUTS[name], "report"}
    if name != "report.html":
        assert (copy / name).read_bytes() == (finished_with() / name).read_bytes()


def test_until_stops_behind_a_stage_and_a_later_run_goes_on(tmp_path: Path, watch: Watch) -> None:
    for at, stage in enumerate(STAGES):
        result = go(tmp_path / "run", until=stage)
        assert watch.done == list(STAGES[: at + 1])
        assert (result.format is not None) == (stage == "report")
