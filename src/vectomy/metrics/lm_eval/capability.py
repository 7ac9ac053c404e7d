"""Capability before and after an edit: tasks of the lm-evaluation-harness (harness.py) on the same
requests.

The requests of each task are built once, and every subject gets them in the same order and batches.
So the base agrees with itself to the last digit, and every difference comes from the edit.
Differences are paired by document.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass

from vectomy.core.freed_memory import return_freed_memory
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress, silent
from vectomy.edits.edit import Edit
from vectomy.metrics.lm_eval.harness import HarnessTask, TaskScores, load_tasks
from vectomy.models import ChatModel

__all__ = ["Capability", "in_rows", "measure_capability"]


@dataclass(frozen=True)
class Capability:
    """The result of one subject on one task."""

    metric: str
    value: float
    stderr: float
    """Standard error of the value, over documents."""
    n: int
    difference: float | None = None
    """From the base, on the same documents; None for the base itself."""
    difference_stderr: float | None = None
    samples: tuple[float, ...] = ()
    """The metric of each document, in order."""

    def to_json(self) -> JsonObject:
        """As documented in docs/evaluation-json.md."""
        return {key: value for key, value in asdict(self).items() if key != "samples"}


Subject = ChatModel | tuple[ChatModel, Edit] | Callable[[], ChatModel]


def measure_capability(
    subjects: Mapping[str, Subject],
    tasks: str,
    *,
    base: str | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    chat_template: bool = False,
    progress: Progress = silent,
) -> dict[str, dict[str, Capability]]:
    """Run tasks on each subject: a model, a model under an Edit's hooks, or a function that loads a
    model. A model that is loaded here is dropped before the next one.

    Args:
        tasks: suites (open-llm-leaderboard, nous, quick, example), task names, task files and
            folders of them; separated by commas.
        base: the subject that the others are compared with; the first unless given.
        limit: most documents per task.
        chat_template: use the base's chat template; leaderboards do not.

    Returns:
        Results by subject and task.

    Raises:
        UsageError: lm-eval is not installed, or a task is not known.
        PromptError: a task's data cannot be loaded, for example without a network.
    """
    first = base if base is not None else next(iter(subjects))
    order = [first, *(name for name in subjects if name != first)]
    template = _open(subjects[first])[0] if chat_template else None
    loaded = load_tasks(tasks, limit, template, progress)
    del template
    scores: dict[str, dict[str, TaskScores]] = {}
    count = sum(task.requests for task in loaded)
    with progress("capability", count * len(order), "requests") as update:
        for name in order:
            chat, edit = _open(subjects[name])
            with nullcontext() if edit is None else edit.hooks(chat.model):
                scores[name] = {task.name: task.run(chat, batch_size, update) for task in loaded}
            del chat
            return_freed_memory()
    return {
        name: in_rows(loaded, scores[name], None if name == first else scores[first]) for name in subjects
    }


def _open(subject: Subject) -> tuple[ChatModel, Edit | None]:
    if isinstance(subject, tuple):
        return subject
    return (subject if isinstance(subject, ChatModel) else subject()), None


def in_rows(
    tasks: Sequence[HarnessTask], scores: Mapping[str, TaskScores], of: Mapping[str, TaskScores] | None
) -> dict[str, Capability]:
    """Results by row, from the subject's scores by task and those of the base (`of`)."""
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
    """The mean and its standard error."""
    n = len(values)
    mean = math.fsum(values) / n
    spread = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(spread / (n - 1) / n) if n > 1 else 0.0
