"""Tasks of the lm-evaluation-harness, in this process: loaded with their requests once, then asked
of any number of models.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
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
from vectomy.core.progress import Progress, silent
from vectomy.metrics.lm_eval.suites import SUITES, Wanted, wanted_tasks
from vectomy.models import ChatModel

__all__ = ["HarnessTask", "TaskScores", "known_tasks", "load_tasks"]

# Which of a task's metrics is told, the first that it has.
METRICS = ("acc_norm", "acc", "exact_match", "mc2")
# What makes scores of answers; a task's other keys are in its requests already.
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
    """One task of the harness and what it asks; a group has several of them in one row of the
    results.
    """

    row: str
    """SUITE/NAME, or NAME of one that was named alone."""
    name: str
    """Of this task alone: its row, and the harness's name."""
    limit: int | None
    """Documents at most."""
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
        """Of all that scores depend on besides the model and the harness: the requests, the
        documents, how answers are scored.
        """
        config = self.own.dump_config()
        digest = hashlib.sha256()
        for part in (
            *([one.request_type, one.args, one.doc] for one in self.own.instances),
            [config.get(key) for key in SCORING],
        ):
            digest.update(json.dumps(part, sort_keys=True, default=_said).encode())
        return digest.hexdigest()

    def run(self, chat: ChatModel, batch_size: int, update: Callable[[int], None]) -> TaskScores:
        """Ask the model all of it, in batches that depend on the requests alone. `update` comes to
        the number of requests.
        """
        with _quiet(), _counted(chat, self.requests, update):
            _ask(self.own, _model(chat, batch_size))
            return self._scores()

    def _scores(self) -> TaskScores:
        self.own.apply_filters()
        instances: dict[int, list[Any]] = defaultdict(list)
        for instance in self.own.instances:
            instances[instance.doc_id].append(instance)
        # Where answers are read in several ways, the first is the task's own.
        way = next(iter(self.own.instances[0].filtered_resps))
        found: list[Mapping[str, Any]] = []
        for number, document in self.own.doc_iterator(rank=0, limit=self.limit, world_size=1):
            asked = sorted(instances[number], key=lambda instance: instance.idx)
            found.append(
                self.own.process_results(document, [instance.filtered_resps[way] for instance in asked])
            )
        metric = self._metric(found[0])
        return TaskScores(metric, tuple(float(row[metric]) for row in found))

    def _metric(self, row: Mapping[str, Any]) -> str:
        numbers = [name for name, value in row.items() if isinstance(value, int | float)]
        for name in (*METRICS, *numbers):
            if name in numbers:
                return name
        raise UsageError(
            f"task '{self.own.config.task}' has no metric that is a number for each document ({', '.join(row)}), so subjects cannot be "
            "paired on it"
        )


def known_tasks() -> frozenset[str]:
    """The names of tasks, groups and tags that the installed harness has; reading them takes
    seconds, once a process.
    """
    return frozenset(_manager(True).all_tasks)


def load_tasks(
    tasks: str, limit: int | None = None, chat: ChatModel | None = None, progress: Progress = silent
) -> list[HarnessTask]:
    """Tasks with their data and requests; a local task file reaches for no network.

    Args:
        tasks: suites, task names, task files and folders of them; by commas.
        limit: documents of each at most, the first ones.
        chat: asks through this model's chat template; without, questions stand as they are.

    Raises:
        UsageError: lm-eval is not installed, or a task is not known.
        PromptError: a task's data cannot be had (no network, say).
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("measuring capability takes the package lm-eval: pip install 'vectomy[capability]'")
    wanted = wanted_tasks(tasks)
    if not wanted:
        raise UsageError(f"'{tasks}' names no task; {_what_there_is()}")
    with _quiet(), _same_shuffles(), _no_bars(), progress("reading tasks", len(wanted)) as update:
        # A file needs none of the harness's own tasks.
        manager = _manager(not all(_is_file(one) for one in wanted))
        for one in wanted:
            _check(manager, one)
        found = []
        for one in wanted:
            most = min((count for count in (one.limit, limit) if count is not None), default=None)
            with _named(one):
                for name, own in _loaded(manager, one).items():
                    # One task may be in two suites with other numbers of examples.
                    found.append(HarnessTask(one.key, f"{one.key}:{name}", most, own))
                    _make_requests(found[-1], one.shots, chat)
            update(1)
    return found


@cache
def _manager(defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=defaults)


def _what_there_is() -> str:
    return f"suites: {', '.join(SUITES)}; the harness's own tasks: lm-eval ls tasks; or a task file (.yaml)"


def _is_file(wanted: Wanted) -> bool:
    return Path(wanted.name).suffix in FILES


def _check(manager: Any, wanted: Wanted) -> None:
    """All names, before the first data are fetched."""
    if _is_file(wanted):
        if not Path(wanted.name).is_file():
            raise UsageError(f"the task file {wanted.name} does not exist")
    elif wanted.name not in manager.all_tasks:
        near = difflib.get_close_matches(wanted.name, [*SUITES, *manager.all_tasks], 3)
        hint = f"near: {', '.join(near)}; " if near else ""
        raise UsageError(
            f"'{wanted.name}' is no task of lm-eval, no suite and no task file; {hint}{_what_there_is()}"
        )


@contextmanager
def _named(wanted: Wanted) -> Iterator[None]:
    """Whatever the harness cannot do with a task, said of that task."""
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        remedy = (
            "check the file and the data it names (those of the Hub take a network once)"
            if _is_file(wanted)
            else "its data come from the Hub: run it once where there is a network (the data then stay in the cache, HF_HOME), "
            "or give a task file with local data"
        )
        raise PromptError(
            f"task '{wanted.name}' cannot be loaded ({type(error).__name__}: {reason[:200]}); {remedy}"
        ) from error


def _loaded(manager: Any, wanted: Wanted) -> dict[str, Any]:
    path, local = Path(wanted.name).resolve(), _is_file(wanted)
    # A task file names its data beside itself.
    with chdir(path.parent) if local else nullcontext():
        tasks: dict[str, Any] = manager.load([str(path) if local else wanted.name])["tasks"]
    return tasks


def _make_requests(task: HarnessTask, shots: int | None, chat: ChatModel | None) -> None:
    """Once for all subjects. `shots` examples in front of each; None leaves the task's own number."""
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
        chat_template=None if model is None else model.apply_chat_template,
        tokenizer_name="" if model is None else model.tokenizer_name,
    )


def _model(chat: ChatModel, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=chat.model, tokenizer=chat.tokenizer, batch_size=batch_size)


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


def _said(value: Any) -> str:
    """What JSON has no word for: functions and classes by their name, never by where they lie in
    memory.
    """
    return str(getattr(value, "__qualname__", value))


@contextmanager
def _counted(chat: ChatModel, count: int, update: Callable[[int], None]) -> Iterator[None]:
    """Advance by the rows of each forward pass, `count` in all: some rows serve several requests,
    an answer takes many passes.
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


@contextmanager
def _no_bars() -> Iterator[None]:
    """The bars of reading data and of making requests, which are drawn unasked: ours says what
    matters.
    """
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
