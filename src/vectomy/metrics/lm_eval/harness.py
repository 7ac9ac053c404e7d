"""Runs tasks of the lm-evaluation-harness in this process. Requests are built once and sent to any
number of models.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from vectomy.core.errors import PromptError, UsageError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.core.packages import describe_missing
from vectomy.core.progress import Progress, silent
from vectomy.core.quoted_error import quote_error
from vectomy.metrics.lm_eval.suites import SUITES, Wanted, wanted_tasks
from vectomy.models import ChatModel

__all__ = ["HarnessTask", "TaskScores", "known_tasks", "load_tasks"]

# The metric to report: the first of these that a task has.
METRICS = ("acc_norm", "acc", "exact_match", "mc2")
# The keys of a task that affect scoring; its other keys already affect its requests.
SCORING = ("output_type", "metric_list", "filter_list", "process_results", "repeats")
SEED = 1234
FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class TaskScores:
    """One model's scores on a task."""

    metric: str
    values: tuple[float, ...]
    """The metric of each document, in order."""


@dataclass(frozen=True, eq=False)
class HarnessTask:
    """One task of the harness with its requests. A group has several tasks in one row of the
    results.
    """

    row: str
    """SUITE/NAME, or NAME for a task without a suite."""
    name: str
    """The unique name: the row and the harness's name."""
    limit: int | None
    """Most documents."""
    own: Any = field(repr=False)
    """The harness's task, with its requests."""

    @property
    def requests(self) -> int:
        return len(self.own.instances)

    @property
    def documents(self) -> int:
        return len({instance.doc_id for instance in self.own.instances})

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that scores depend on besides the model and the harness: requests,
        documents and scoring.
        """
        config = self.own.dump_config()
        digest = hashlib.sha256()
        for part in (
            *([instance.request_type, instance.args, instance.doc] for instance in self.own.instances),
            [config.get(key) for key in SCORING],
        ):
            digest.update(json.dumps(part, sort_keys=True, default=_name_value).encode())
        return digest.hexdigest()

    def run(self, chat: ChatModel, batch_size: int, update: Callable[[int], None]) -> TaskScores:
        """Run all requests, in batches that depend only on the requests. `update` receives the
        number of requests in total.
        """
        with _quiet(), _count_rows(chat, self.requests, update):
            _ask(self.own, _model(chat, batch_size))
            return self._scores()

    def _scores(self) -> TaskScores:
        self.own.apply_filters()
        instances: dict[int, list[Any]] = defaultdict(list)
        for instance in self.own.instances:
            instances[instance.doc_id].append(instance)
        # If answers are filtered in several ways, the first is the task's own.
        way = next(iter(self.own.instances[0].filtered_resps))
        results: list[Mapping[str, Any]] = []
        for number, document in self.own.doc_iterator(rank=0, limit=self.limit, world_size=1):
            asked = sorted(instances[number], key=lambda instance: instance.idx)
            results.append(
                self.own.process_results(document, [instance.filtered_resps[way] for instance in asked])
            )
        metric = self._metric(results[0])
        return TaskScores(metric, tuple(float(row[metric]) for row in results))

    def _metric(self, row: Mapping[str, JsonValue]) -> str:
        numbers = [name for name, value in row.items() if isinstance(value, int | float)]
        for name in (*METRICS, *numbers):
            if name in numbers:
                return name
        raise UsageError(
            f"task '{self.own.config.task}' has no numeric metric per document ({', '.join(row)}), so "
            "subjects cannot be "
            "compared on it; choose another task"
        )


def known_tasks() -> frozenset[str]:
    """The names of all tasks, groups and tags of the installed harness. The first call takes
    seconds.
    """
    return frozenset(_manager(True).all_tasks)


def load_tasks(
    tasks: str, limit: int | None = None, chat: ChatModel | None = None, progress: Progress = silent
) -> list[HarnessTask]:
    """Load tasks with their data and requests. A local task file needs no network.

    Args:
        tasks: suites, task names, task files and folders of them; separated by commas.
        limit: use only the first `limit` documents of each task.
        chat: render requests with this model's chat template; None leaves them plain.

    Raises:
        UsageError: lm-eval is not installed, or a task is not known.
        PromptError: a task's data cannot be loaded, for example without a network.
    """
    if missing := describe_missing("measuring capability", "lm_eval"):
        raise UsageError(missing)
    wanted = wanted_tasks(tasks)
    if not wanted:
        raise UsageError(f"'{tasks}' names no task; {_list_choices()}")
    with _quiet(), _same_shuffles(), _no_bars(), progress("reading tasks", len(wanted)) as update:
        # Task files do not need the harness's own tasks.
        manager = _manager(not all(_is_file(entry) for entry in wanted))
        for entry in wanted:
            _check(manager, entry)
        loaded = []
        for entry in wanted:
            most = min((count for count in (entry.limit, limit) if count is not None), default=None)
            with _name_errors(entry):
                for name, own in _load(manager, entry).items():
                    # A task may be in two suites with different numbers of examples.
                    loaded.append(HarnessTask(entry.key, f"{entry.key}:{name}", most, own))
                    _make_requests(loaded[-1], entry.shots, chat)
            update(1)
    return loaded


@cache
def _manager(defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=defaults)


def _list_choices() -> str:
    return f"suites: {', '.join(SUITES)}; the harness's own tasks: lm-eval ls tasks; or a task file (.yaml)"


def _is_file(wanted: Wanted) -> bool:
    return Path(wanted.name).suffix in FILES


def _check(manager: Any, wanted: Wanted) -> None:
    """Check a name before any data is fetched."""
    if _is_file(wanted):
        if not Path(wanted.name).is_file():
            raise UsageError(f"the task file {wanted.name} does not exist")
    elif wanted.name not in manager.all_tasks:
        near = difflib.get_close_matches(wanted.name, [*SUITES, *manager.all_tasks], 3)
        hint = f"near: {', '.join(near)}; " if near else ""
        raise UsageError(
            f"'{wanted.name}' is not a task of lm-eval, a suite or a task file; {hint}{_list_choices()}"
        )


@contextmanager
def _name_errors(wanted: Wanted) -> Iterator[None]:
    """Turn any error of the harness into one that names the task."""
    try:
        yield
    except Exception as error:
        remedy = (
            "check the file and the data it names (data on the Hub needs a network once)"
            if _is_file(wanted)
            else "its data comes from the Hub: run it once with a network (the data stays in the cache, "
            "HF_HOME), "
            "or give a task file with local data"
        )
        raise PromptError(
            f"task '{wanted.name}' cannot be loaded ({type(error).__name__}: {quote_error(error)}); {remedy}"
        ) from error


def _load(manager: Any, wanted: Wanted) -> JsonObject:
    path, local = Path(wanted.name).resolve(), _is_file(wanted)
    # A task file names its data relative to itself.
    with chdir(path.parent) if local else nullcontext():
        tasks: JsonObject = manager.load([str(path) if local else wanted.name])["tasks"]
    return tasks


def _make_requests(task: HarnessTask, shots: int | None, chat: ChatModel | None) -> None:
    """Build the requests once for all subjects, with `shots` examples; None keeps the task's
    number.
    """
    if shots is not None or task.own.get_config("num_fewshot") is None:
        task.own.set_config(key="num_fewshot", value=shots or 0)
    task.own.set_fewshot_seed(seed=SEED)
    model = None if chat is None else _model(chat, 1)
    task.own.build_all_requests(
        limit=task.limit,
        rank=0,
        world_size=1,
        apply_chat_template=model is not None,
        fewshot_as_multiturn=model is not None,
        chat_template=None if chat is None else _template_of(chat, model),
        tokenizer_name="" if model is None else model.tokenizer_name,
    )


def _model(chat: ChatModel, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    # The harness does not look for the positions of a text model inside a larger one.
    return HFLM(
        pretrained=chat.model, tokenizer=chat.tokenizer, batch_size=batch_size, max_length=chat.context
    )


def _template_of(chat: ChatModel, model: Any) -> Any:
    """The harness's own use of the template, unless that takes content in parts."""
    if not chat.template.takes_parts:
        return model.apply_chat_template
    return lambda turns, add_generation_prompt=True: chat.template.apply(turns, add_generation_prompt)


def _ask(own: Any, model: Any) -> None:
    requests: dict[str, list[Any]] = defaultdict(list)
    for instance in own.instances:
        instance.resps, instance.filtered_resps = [], {}
        requests[instance.request_type] += [instance] * (instance.repeats or 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for kind, asked in requests.items():
            for answer, instance in zip(getattr(model, kind)(asked, disable_tqdm=True), asked, strict=True):
                instance.resps.append(answer)


def _name_value(value: Any) -> str:
    """Values that JSON lacks: functions and classes by their name, never by their memory
    address.
    """
    return str(getattr(value, "__qualname__", value))


@contextmanager
def _count_rows(chat: ChatModel, count: int, update: Callable[[int], None]) -> Iterator[None]:
    """Update progress by the rows of each forward pass, at most `count` in total: a row may serve
    several requests, and an answer needs many passes.
    """
    left = count

    def passed(_module: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        nonlocal left
        ids = args[0] if args else kwargs.get("input_ids")
        rows = 0 if ids is None else min(left, len(ids))
        left -= rows
        update(rows)

    handle = chat.model.register_forward_pre_hook(passed, with_kwargs=True)
    try:
        yield
        update(left)
    finally:
        handle.remove()


@contextmanager
def _same_shuffles() -> Iterator[None]:
    """Seed Python's global generator, with which some tasks shuffle their answers while loading."""
    before = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the harness, which logs every step."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the harness's progress bars; ours replaces them."""
    import datasets
    from lm_eval.api import task as module

    before, drawn = module.tqdm, datasets.is_progress_bar_enabled()
    module.tqdm = lambda rows, **_: rows
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        module.tqdm = before
        if drawn:
            datasets.enable_progress_bars()
