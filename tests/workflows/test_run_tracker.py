"""A tracker gets the numbers that the run folder holds."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_chat
from command_line import Vectomy
from finished_run import finished_run, scores_in, summary_in

from vectomy.workflows.run_tracker import report_run

TIER = "chat"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run to which a search of two steps is added."""
    made = finished_run(behaviour_tokens=("I",), n_search=4, n_test=4)
    folder = Path(shutil.copytree(made, tmp_path / "run"))
    history = [{"step": 0, "change": 0.75, "keep": 0.5}, {"step": 1, "change": 0.25, "keep": 0.125}]
    (folder / "scores.json").write_text(json.dumps({**scores_in(made), "history": history}), "utf-8")
    return folder


def test_tensorboard_holds_losses_and_measures(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report_run(folder, "tensorboard")
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("search/change")] == [(0, 0.75), (1, 0.25)]
    summary = summary_in(folder)
    for form in ("base", "edited"):
        (event,) = events.Scalars(f"{form}/refusal_rate")
        assert (event.step, event.value) == (2, pytest.approx(summary[form]["refusal_rate"]))
    (event,) = events.Scalars("edited/kl_per_token")
    assert event.value == pytest.approx(summary["edited"]["kl_per_token"], rel=1e-6)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_wandb_and_trackio_get_the_same(folder: Path, tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the interface that both have: init, log, finish."""
    calls: list[tuple[str, Any]] = []
    stand_in = SimpleNamespace(
        init=lambda **given: calls.append(("init", given)),
        log=lambda numbers, step: calls.append(("log", (step, numbers))),
        finish=lambda: calls.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, tracker, stand_in)
    report_run(folder, tracker)  # type: ignore[arg-type]
    names, values = zip(*calls, strict=True)
    assert names == ("init", "log", "log", "log", "finish")
    assert values[0]["project"] == "vectomy"
    assert values[0]["name"] == "run"
    assert values[0]["config"]["edit_sha256"] == summary_in(folder)["edit"]["sha256"]
    assert values[1] == (0, {"search/change": 0.75, "search/keep": 0.5})
    step, last = values[3]
    assert step == 2
    assert last["edited/refusal_rate"] == summary_in(folder)["edited"]["refusal_rate"]
    assert all(isinstance(value, float) for value in last.values())


def test_a_tracker_that_fails_is_named_after_the_summary(
    folder: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("api_key not configured")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse, __spec__=object()))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    given = ("run", config["model"], "--config", str(folder / "config.json"), "--out", str(folder), "--yes")
    for more in ((), ("--json",)):
        status, out, err = vectomy(*given, "--report-to", "wandb", *more)
        assert status == 0, err
        assert "edited" in out
        assert "wandb did not take its numbers (RuntimeError: api_key not configured)" in " ".join(
            err.split()
        )


def test_a_tracker_that_is_not_here_is_named_before_the_run(
    tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    out = tmp_path / "run"
    status, _, err = vectomy("run", str(tiny_chat.folder()), "--out", str(out), "--report-to", "trackio")
    assert status != 0
    assert "pip install trackio" in err
    assert not out.exists()
