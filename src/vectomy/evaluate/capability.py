"""What a model can do, before and after: tasks of the lm-evaluation-harness, in this process, on the same requests.

The requests of each task are made once and given to every subject in the same order and batches, so that the base against itself is
the same to the last digit and what differs is the edit. Differences are paired by document.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vectomy.edit import Edit
from vectomy.errors import PromptError, UsageError
from vectomy.evaluate.suites import SUITES, Wanted, wanted_tasks
from vectomy.model import ChatModel
from vectomy.progress import Progress, silent

__all__ = ["Capability", "Suite", "known_tasks", "load_suite", "measure_capability"]

# Which of a task's metrics is told, the first that it has.
METRICS = ("acc_norm", "acc", "exact_match", "mc2")
SEED = 1234
FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class Capability:
    """One task's result of one subject."""

    metric: str
    value: float
    stderr: float
    """Of the value, over documents."""
    n: int
    difference: float | None = None
    """From the base, on the same documents; None for the base itself."""
    difference_stderr: float | None = None
    samples: tuple[float, ...] = ()
    """The metric of each document, in order."""

    def to_json(self) -> dict[str, Any]:
        """As docs/evaluation-json.md has it."""
        return {key: value for key, value in asdict(self).items() if key != "samples"}


@dataclass(frozen=True)
class Suite:
    """Loaded tasks with their requests."""

    tasks: Mapping[str, Any]
    """The harness's, by name."""
    keys: Mapping[str, tuple[str, ...]]
    """The tasks that each reported row is made of."""
    limits: Mapping[str, int | None]


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
    """Run tasks on each subject: a model, or a model under an Edit's hooks. Results by subject and task.

    Args:
        tasks: suites (open-llm-leaderboard, nous, quick, example), task names, task files and folders of them; by commas.
        base: the subject that differences are taken from; the first one if it is not given.
        limit: documents a task at most.
        chat_template: ask through the base's chat template; leaderboards do not.

    Raises:
        UsageError: lm-eval is not installed, or a task is not known.
        PromptError: a task's data cannot be had (no network, say).
    """
    first = base if base is not None else next(iter(subjects))
    suite = load_suite(tasks, limit)
    order = [first, *(name for name in subjects if name != first)]
    found: dict[str, dict[str, Capability]] = {}
    models = {name: subject if isinstance(subject, tuple) else (subject, None) for name, subject in subjects.items()}
    _make_requests(suite, _harness_model(models[first][0], batch_size), chat_template)
    count = sum(len(task.instances) for task in suite.tasks.values())
    with progress("capability", count * len(order), "requests") as advance:
        for name in order:
            chat, edit = models[name]
            with nullcontext() if edit is None else edit.hooks(chat.model), _quiet(), _counted(chat, count, advance):
                scores = _scores(suite, _harness_model(chat, batch_size))
            found[name] = _told(suite, scores, found.get(first))
    return {name: found[name] for name in subjects}


@contextmanager
def _counted(chat: ChatModel, count: int, advance: Callable[[int], None]) -> Iterator[None]:
    """Advance by the rows of each forward pass, `count` in all: some rows serve several requests, an answer takes many passes."""
    left = count

    def passed(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal left
        ids = args[0] if args else kwargs.get("input_ids")
        rows = 0 if ids is None else min(left, len(ids))
        left -= rows
        advance(rows)

    handle = chat.model.register_forward_pre_hook(passed, with_kwargs=True)
    try:
        yield
        advance(left)
    finally:
        handle.remove()


def known_tasks() -> frozenset[str]:
    """The names of tasks, groups and tags that the installed harness has; reading them takes seconds, once a process."""
    return frozenset(_manager(True).all_tasks)


def load_suite(tasks: str, limit: int | None = None) -> Suite:
    """The harness's tasks with their data; a local task file reaches for no network.

    Raises:
        UsageError, PromptError: as `measure_capability`.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("measuring capability takes the package lm-eval: pip install 'vectomy[capability]'")
    wanted = wanted_tasks(tasks)
    if not wanted:
        raise UsageError(f"'{tasks}' names no task; suites: {', '.join(SUITES)}")
    with _quiet(), _same_shuffles():
        # A file needs none of the harness's own tasks.
        manager = _manager(not all(Path(one.name).suffix in FILES for one in wanted))
        loaded: dict[str, Any] = {}
        keys: dict[str, tuple[str, ...]] = {}
        limits: dict[str, int | None] = {}
        for one in wanted:
            own = _loaded(manager, one)
            for task in own.values():
                if one.shots is not None or task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=one.shots or 0)
                task.set_fewshot_seed(seed=SEED)
            # One task may be in two suites with other numbers of examples.
            renamed = {f"{one.key}:{name}": task for name, task in own.items()}
            loaded |= renamed
            keys[one.key] = tuple(renamed)
            most = [count for count in (one.limit, limit) if count is not None]
            limits |= dict.fromkeys(renamed, min(most) if most else None)
    return Suite(loaded, keys, limits)


@cache
def _manager(defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=defaults)


def _loaded(manager: Any, wanted: Wanted) -> dict[str, Any]:
    path = Path(wanted.name)
    local = path.suffix in FILES
    if local and not path.is_file():
        raise UsageError(f"the task file {path} does not exist")
    if not local and wanted.name not in manager.all_tasks:
        near = difflib.get_close_matches(wanted.name, [*SUITES, *manager.all_tasks], 3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UsageError(f"'{wanted.name}' is no task of lm-eval, no suite and no task file{hint}")
    try:
        # A task file names its data beside itself.
        with chdir(path.resolve().parent) if local else nullcontext():
            tasks: dict[str, Any] = manager.load([str(path.resolve()) if local else wanted.name])["tasks"]
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        remedy = (
            "check the file and the data it names"
            if local
            else "its data come from the Hub: run it once where there is a network (the data then stay in the cache, HF_HOME), "
            "or give a task file with local data"
        )
        raise PromptError(
            f"task '{wanted.name}' cannot be loaded ({type(error).__name__}: {reason[:200]}); {remedy}"
        ) from error
    return tasks


def _harness_model(chat: ChatModel, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    with _quiet():
        return HFLM(pretrained=chat.model, tokenizer=chat.tokenizer, batch_size=batch_size)


def _make_requests(suite: Suite, model: Any, chat_template: bool) -> None:
    """Once for all subjects."""
    with _quiet():
        for name, task in suite.tasks.items():
            task.build_all_requests(
                limit=suite.limits[name],
                rank=0,
                world_size=1,
                apply_chat_template=chat_template,
                fewshot_as_multiturn=chat_template,
                chat_template=model.apply_chat_template if chat_template else None,
                tokenizer_name=model.tokenizer_name if chat_template else "",
            )


def _scores(suite: Suite, model: Any) -> dict[str, tuple[str, list[float]]]:
    """Metric and values by document of every task; all tasks' requests of a kind run together, as the harness does it."""
    requests: dict[str, list[Any]] = defaultdict(list)
    for task in suite.tasks.values():
        for instance in task.instances:
            instance.resps, instance.filtered_resps = [], {}
            requests[instance.request_type] += [instance] * (instance.repeats or 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for kind, asked in requests.items():
            for answer, instance in zip(getattr(model, kind)(asked, disable_tqdm=True), asked, strict=True):
                instance.resps.append(answer)
    return {name: _values(task, suite.limits[name]) for name, task in suite.tasks.items()}


def _values(task: Any, limit: int | None) -> tuple[str, list[float]]:
    task.apply_filters()
    instances: dict[int, list[Any]] = defaultdict(list)
    for instance in task.instances:
        instances[instance.doc_id].append(instance)
    # Where answers are read in several ways, the first is the task's own.
    way = next(iter(task.instances[0].filtered_resps))
    found: list[Mapping[str, Any]] = []
    for number, document in task.doc_iterator(rank=0, limit=limit, world_size=1):
        asked = sorted(instances[number], key=lambda instance: instance.idx)
        found.append(task.process_results(document, [instance.filtered_resps[way] for instance in asked]))
    metric = _metric(found[0], task)
    return metric, [float(row[metric]) for row in found]


def _metric(row: Mapping[str, Any], task: Any) -> str:
    numbers = [name for name, value in row.items() if isinstance(value, int | float)]
    for name in (*METRICS, *numbers):
        if name in numbers:
            return name
    raise UsageError(
        f"task '{task.config.task}' has no metric that is a number for each document ({', '.join(row)}), so subjects cannot be paired on it"
    )


def _told(
    suite: Suite, scores: Mapping[str, tuple[str, list[float]]], base: Mapping[str, Capability] | None
) -> dict[str, Capability]:
    rows = {}
    for key, names in suite.keys.items():
        values = [value for name in names for value in scores[name][1]]
        mean, stderr = _mean(values)
        difference = _mean([b - a for a, b in zip(base[key].samples, values, strict=True)]) if base else (None, None)
        rows[key] = Capability(
            scores[names[0]][0], mean, stderr, len(values), difference[0], difference[1], tuple(values)
        )
    return rows


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, from the sample's own spread."""
    n = len(values)
    mean = math.fsum(values) / n
    spread = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(spread / (n - 1) / n) if n > 1 else 0.0


@contextmanager
def _same_shuffles() -> Iterator[None]:
    """Some tasks shuffle their answers while they are loaded, with the one generator of Python."""
    before = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness reports every step of its own."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
