"""The numbers of a finished run for a tracker: TensorBoard, Weights & Biases or trackio.

The losses of the search by step, then the measures of the base and of the edited model on the test
prompts, as the summary has them. trackio has the interface of wandb.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

from vectomy.core.after_run import Tracker
from vectomy.core.errors import VectomyError
from vectomy.core.quoted_error import quote_error
from vectomy.core.results import FormMetrics, RunResults, SearchResults
from vectomy.core.run_folder import read_json

__all__ = ["explain_missing_tracker", "report_run"]

PROJECT = "vectomy"
Numbers = dict[str, float]


def explain_missing_tracker(tracker: Tracker) -> str | None:
    """How to install a tracker that is not here; None where it is, or there is none."""
    if tracker == "none" or importlib.util.find_spec(tracker) is not None:
        return None
    return f"--report-to {tracker} needs the package {tracker}: pip install {tracker}"


def report_run(folder: Path, tracker: Tracker) -> None:
    """Pass the numbers of the finished run in `folder` to a tracker.

    Raises:
        VectomyError: the tracker does not take them (no key, no network).
    """
    results = RunResults.from_json(read_json(folder / "summary.json"))
    scores = SearchResults.from_json(read_json(folder / "scores.json"))
    steps = [(int(row.step or 0), numbers_of(row.to_json(), "search/", {"step"})) for row in scores.history]
    final = {**_of_form(results.base, "base/"), **_of_form(results.edited, "edited/")}
    last = 1 + max((step for step, _ in steps), default=-1)
    settings: dict[str, object] = {
        "model": results.model,
        "behaviour": results.behaviour,
        "recipe": results.recipe,
        "seed": results.seed,
        "edit_sha256": results.edit.sha256,
    }
    rows = [*steps, (last, final)]
    try:
        if tracker == "tensorboard":
            _to_tensorboard(folder / "tensorboard", rows)
        elif tracker != "none":
            _to_wandb(tracker, folder, settings, rows)
    # Each tracker has errors of its own, without a common class.
    except Exception as error:
        raise VectomyError(
            f"the run in {folder} is finished, but {tracker} did not take its numbers "
            f"({type(error).__name__}: {quote_error(error)}); the same command with --report-to {tracker} "
            "passes them again"
        ) from error


def numbers_of(values: Mapping[str, object], prefix: str, without: Iterable[str] = ()) -> Numbers:
    """The numbers of an object by prefixed name."""
    return {
        f"{prefix}{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in set(without)
    }


def _of_form(metrics: FormMetrics, prefix: str) -> Numbers:
    return numbers_of(metrics.to_json(), prefix)


def _to_tensorboard(folder: Path, rows: Iterable[tuple[int, Numbers]]) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step, numbers in rows:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)


def _to_wandb(
    tracker: Tracker, folder: Path, settings: Mapping[str, object], rows: Iterable[tuple[int, Numbers]]
) -> None:
    module = importlib.import_module(tracker)
    module.init(project=PROJECT, name=folder.resolve().name, config=dict(settings))
    try:
        for step, numbers in rows:
            module.log(numbers, step=step)
    finally:
        module.finish()
