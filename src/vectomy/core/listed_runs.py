"""The runs, healings and evaluations below a folder, with the numbers of their results. Loads no
torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject
from vectomy.core.results.evaluation_json import EvaluationResults
from vectomy.core.results.healing_json import HealingResults
from vectomy.core.results.result_parts import Rate
from vectomy.core.results.run_json import FormMetrics, RunResults
from vectomy.core.run_folder import MARK, RunFolder, read_json

__all__ = ["ListedRun", "find_run_folders", "list_runs"]

# Folders in folders that are looked into.
DEPTH = 3
HEALING_STAGES = ("edited", "rows", "train", "merge", "measure")
STAGES = (
    *("baseline", "collect", "directions", "select", "apply", "evaluate"),
    *HEALING_STAGES,
    "report",
)

RunKind = Literal["run", "healing", "evaluation"]
RunState = Literal["finished", "unfinished", "damaged"]


@dataclass(frozen=True)
class ListedRun:
    """One folder of `vectomy ls`. What was not measured, or is not known, is None."""

    folder: Path
    kind: RunKind
    state: RunState
    date: str
    """Of the last stage or result, UTC, to the second (ISO 8601)."""
    stage: str | None = None
    """The last stage that is done."""
    model: str | None = None
    recipe: str | None = None
    behaviour: str | None = None
    before: Rate | None = None
    """How often the base (of a healing: the edited model) shows the behaviour on test prompts."""
    after: Rate | None = None
    degenerate_before: float | None = None
    degenerate_after: float | None = None
    kl_per_token: float | None = None
    """Nats on harmless test prompts; of a model read block by block, at the first token alone."""
    kl_first_token: float | None = None
    edit_sha256: str | None = None
    command: str | None = None
    fault: str | None = None
    """Why the folder cannot be read."""

    def to_json(self) -> JsonObject:
        numbers = ("rate", "count", "total", "ci")
        rates = {
            side: None if rate is None else {name: getattr(rate, name) for name in numbers}
            for side, rate in (("before", self.before), ("after", self.after))
        }
        others = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("folder", *rates)
        }
        return {"folder": str(self.folder), **others, **rates}


def list_runs(folder: Path) -> list[ListedRun]:
    """Every run in `folder` or below it, newest first."""
    runs = [_read_run(path) for path in find_run_folders(folder)]
    return sorted(runs, key=lambda run: (run.date, str(run.folder)), reverse=True)


def find_run_folders(folder: Path) -> Iterator[Path]:
    """The folders that hold a run; hidden folders, links and the inside of a run are left out."""
    for place, names, files in os.walk(folder):
        path = Path(place)
        if MARK in files:
            yield path
            names.clear()
        elif len(path.relative_to(folder).parts) >= DEPTH:
            names.clear()
        else:
            names[:] = sorted(name for name in names if not name.startswith("."))


def _read_run(folder: Path) -> ListedRun:
    stages = [file for name in STAGES if (file := folder / "stages" / f"{name}.json").is_file()]
    results = [folder / name for name in ("summary.json", "evaluation.json") if (folder / name).is_file()]
    newest = max(file.stat().st_mtime for file in (folder / MARK, *stages, *results))
    run = ListedRun(
        folder,
        _kind_of(folder, {file.stem for file in stages}),
        "unfinished",
        datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds"),
        stage=stages[-1].stem if stages else None,
    )
    try:
        return _read_results(run)
    except ArtifactError as error:
        return replace(run, state="damaged", fault=str(error))


def _kind_of(folder: Path, stages: set[str]) -> RunKind:
    if (folder / "config.json").is_file():
        return "run"
    if stages & set(HEALING_STAGES):
        return "healing"
    try:
        until = read_json(folder / "settings.json").get("until")
    except (ArtifactError, AttributeError):
        until = None
    return "evaluation" if until == "evaluation" or (folder / "evaluation.json").is_file() else "run"


def _read_results(run: ListedRun) -> ListedRun:
    """With the numbers of a finished run, or with the settings of an unfinished one.

    Raises:
        ArtifactError: a file does not parse.
    """
    folder = run.folder
    if run.kind == "evaluation" and (folder / "evaluation.json").is_file():
        return _with_evaluation(run, EvaluationResults.from_json(read_json(folder / "evaluation.json")))
    if RunFolder(folder).is_finished("report"):
        run = replace(run, state="finished")
    if (folder / "summary.json").is_file() and run.state == "finished":
        summary = read_json(folder / "summary.json")
        if isinstance(summary, dict) and summary.get("format") == "vectomy-healing":
            return _with_healing(run, HealingResults.from_json(summary))
        return _with_run(run, RunResults.from_json(summary))
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not isinstance(config, dict):
        return run
    contrast = config.get("contrast")
    behaviour = contrast.get("behaviour") if isinstance(contrast, dict) else None
    return replace(run, model=_text(config, "model"), recipe=_text(config, "recipe"), behaviour=behaviour)


def _text(values: JsonObject, key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) else None


def _with_run(run: ListedRun, results: RunResults) -> ListedRun:
    base, edited = results.base, results.edited
    return replace(
        run,
        model=results.model,
        recipe=results.recipe,
        behaviour=results.behaviour,
        before=_shown_rate(base),
        after=_shown_rate(edited),
        degenerate_before=base.degenerate_rate,
        degenerate_after=edited.degenerate_rate,
        kl_per_token=edited.kl_per_token,
        kl_first_token=edited.kl_first_token,
        edit_sha256=results.edit.sha256,
        command=results.command,
    )


def _shown_rate(metrics: FormMetrics) -> Rate | None:
    return metrics.rate("refusal") if metrics.refusal_rate is not None else None


def _with_healing(run: ListedRun, results: HealingResults) -> ListedRun:
    # Before the edit, behind it, behind the healing.
    measured = [results.measured[name] for name in results.models if name in results.measured]
    if len(measured) < 3:
        return replace(run, model=results.model, behaviour=results.behaviour, command=results.command)
    _, edited, healed = measured[:3]
    return replace(
        run,
        model=results.model,
        behaviour=results.behaviour,
        before=edited.refusal,
        after=healed.refusal,
        degenerate_before=edited.degenerate.rate,
        degenerate_after=healed.degenerate.rate,
        kl_per_token=healed.kl_per_token,
        kl_first_token=healed.kl_first_token,
        command=results.command,
    )


def _with_evaluation(run: ListedRun, results: EvaluationResults) -> ListedRun:
    return replace(
        run, state="finished", model=results.base, behaviour=results.behaviour, command=results.command
    )
