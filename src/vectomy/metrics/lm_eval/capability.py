"""What a model can do, before and after: tasks of the lm-evaluation-harness (harness.py) on the
same requests.

The requests of each task are made once and given to every subject in the same order and batches, so
that the base against itself is the same to the last digit and what differs is the edit. Differences
are paired by document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from vectomy.core.progress import Progress, silent
from vectomy.edits.edit import Edit
from vectomy.metrics.lm_eval.harness import HarnessTask, TaskScores, load_tasks
from vectomy.models import ChatModel

__all__ = ["Capability", "in_rows", "measure_capability"]


@dataclass(frozen=True)
class Capability:
    """One task's result of one subject."""

    metric: str
    value: float
    stderr: float
    """Of the value, over documents."""
    n: int
    difference: float | None = None
    """From what the subject is compared with, on the same documents; None for the base itself."""
    difference_stderr: float | None = None
    samples: tuple[float, ...] = ()
    """The metric of each document, in order."""

    def to_json(self) -> dict[str, Any]:
        """As docs/evaluation-json.md has it."""
        return {key: value for key, value in asdict(self).items() if key != "samples"}


def measure_capability(
    subjects: Mapping[str, ChatModel | tuple[ChatModel, Edit]],
    tasks: str,
    *,
    base: str | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    chat_template: bool = False,
    progress: Progress = silent,
) -> dict[str, dict[str, Capability]]:
    """Run tasks on each subject: a model, or a model under an Edit's hooks. Results by subject and
    task.

    Args:
        tasks: suites (open-llm-leaderboard, nous, quick, example), task names, task files and
            folders of them; by commas.
        base: the subject that differences are taken from; the first one if it is not given.
        limit: documents a task at most.
        chat_template: ask through the base's chat template; leaderboards do not.

    Raises:
        UsageError: lm-eval is not installed, or a task is not known.
        PromptError: a task's data cannot be had (no network, say).
    """
    first = base if base is not None else next(iter(subjects))
    order = [first, *(name for name in subjects if name != first)]
    models = {
        name: subject if isinstance(subject, tuple) else (subject, None) for name, subject in subjects.items()
    }
    loaded = load_tasks(tasks, limit, models[first][0] if chat_template else None, progress)
    scores: dict[str, dict[str, TaskScores]] = {}
    count = sum(task.requests for task in loaded)
    with progress("capability", count * len(order), "requests") as update:
        for name in order:
            chat, edit = models[name]
            with nullcontext() if edit is None else edit.hooks(chat.model):
                scores[name] = {task.name: task.run(chat, batch_size, update) for task in loaded}
    return {
        name: in_rows(loaded, scores[name], None if name == first else scores[first]) for name in subjects
    }


def in_rows(
    tasks: Sequence[HarnessTask], scores: Mapping[str, TaskScores], of: Mapping[str, TaskScores] | None
) -> dict[str, Capability]:
    """Results by row from scores by task: a subject's own, and those it is compared with."""
    rows = {}
    for row in dict.fromkeys(task.row for task in tasks):
        names = [task.name for task in tasks if task.row == row]
        values = _joined(scores, names)
        mean, stderr = _mean(values)
        pairs = None if of is None else [b - a for a, b in zip(_joined(of, names), values, strict=True)]
        difference, spread = (None, None) if pairs is None else _mean(pairs)
        rows[row] = Capability(
            scores[names[0]].metric, mean, stderr, len(values), difference, spread, tuple(values)
        )
    return rows


def _joined(scores: Mapping[str, TaskScores], names: Sequence[str]) -> list[float]:
    return [value for name in names for value in scores[name].values]


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, from the sample's own spread."""
    n = len(values)
    mean = math.fsum(values) / n
    spread = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(spread / (n - 1) / n) if n > 1 else 0.0
