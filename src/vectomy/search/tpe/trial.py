"""One trial: an edit measured on the search prompts, in this process or in others beside it.

KL comes first, for it is cheap; then answers are generated a few prompts at a time, until a
finished trial beats this one whatever the rest would bring.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from vectomy.core.config import RunConfig
from vectomy.core.errors import ActivationError, SelectionError, VectomyError
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.metrics.judges import Judge, find_refusals
from vectomy.metrics.logits import kl_divergence, log_odds
from vectomy.models import ChatModel, load_model, probe_architecture
from vectomy.search.recipe import RecipeInput
from vectomy.search.tpe.layer_weights import Parameters, Place, build_edit, directions_behind

__all__ = ["Job", "Row", "TrialBench", "one_by_one", "side_by_side"]

# Positive prompts that are answered before it is asked again whether the trial can still matter.
AT_ONCE = 8

Row = dict[str, Any]
"""kl (nats), rate, shown and seen (prompts), and why it is `rejected`, or None."""
Finished = Sequence[tuple[float, int]]
"""Of finished trials: KL, and how many prompts show the behaviour."""
Measure = Callable[[Parameters, Finished], Row]
Job = tuple[int, Parameters, Finished]
"""The trial's number, what it tries, and the finished ones that may beat it."""


@dataclass(frozen=True)
class TrialBench:
    """What edits are built of and measured on. It goes to other processes, so it holds no model and
    no tensor.
    """

    config: RunConfig
    folder: Path
    name: str
    base: BaseModelRef
    places: list[Place]
    units: Float[np.ndarray, "layer d_model"]
    positive: list[Prompt]
    negative: list[Prompt]
    tokens: list[int]
    judge: Judge | None

    @classmethod
    def of(cls, task: RecipeInput) -> TrialBench:
        return cls(
            config=task.config,
            folder=task.chat.checkpoint.path,
            name=task.chat.name,
            base=task.base,
            places=[(writer.component, writer.layer) for writer in task.writers if writer.layer is not None],
            units=directions_behind(task.directions).numpy(),
            positive=task.positive["search"],
            negative=task.negative["search"],
            tokens=list(task.tokens),
            judge=task.judge,
        )

    def edit(self, parameters: Parameters) -> Edit:
        return build_edit(parameters, self.base, self.places, torch.from_numpy(self.units))

    def on(self, chat: ChatModel) -> Measure:
        """Measures edits on a loaded model: KL first, then the behaviour until the trial is beaten."""
        budget = self.config.runtime.batch_tokens
        positive, negative = chat.tokens(self.positive), chat.tokens(self.negative)
        base = chat.next_token_log_probs(negative, budget)

        def measure(parameters: Parameters, beaten_by: Finished) -> Row:
            shown = seen = 0
            with self.edit(parameters).hooks(chat.model):
                try:
                    kl = float(kl_divergence(base, chat.next_token_log_probs(negative, budget)).mean())
                except ActivationError:
                    return _row(None, 0, 0, len(positive))
                while seen < len(positive) and not any(
                    kl >= other and shown >= count for other, count in beaten_by
                ):
                    here = slice(seen, seen + AT_ONCE)
                    shown += self._shown(chat, self.positive[here], positive[here])
                    seen += len(positive[here])
            return _row(kl, shown, seen, len(positive))

        return measure

    def _shown(self, chat: ChatModel, prompts: Sequence[Prompt], tokens: list[list[int]]) -> int:
        budget = self.config.runtime.batch_tokens
        if self.judge is None:
            return int((log_odds(chat.next_token_log_probs(tokens, budget), self.tokens) > 0).sum())
        answers = chat.answer(tokens, self.config.answer_tokens, budget)
        texts = [chat.text(answer) for answer in answers]
        return sum(find_refusals(self.judge, [prompt.text for prompt in prompts], texts))


def _row(kl: float | None, shown: int, seen: int, count: int) -> Row:
    if kl is None:
        nothing = dict.fromkeys(("kl", "rate", "shown"))
        return {**nothing, "seen": 0, "rejected": "gives NaN or infinite log-probabilities"}
    rejected = None
    if seen < count:
        rejected = (
            f"stopped after {seen} of {count} prompts: another edit is no worse in KL and in the behaviour"
        )
    return {"kl": kl, "rate": shown / count, "shown": shown, "seen": seen, "rejected": rejected}


# One process or several


def one_by_one(measure: Measure, jobs: Iterator[Job]) -> Generator[tuple[int, Row], None, None]:
    """Results in this process; a job is drawn when the one before is done."""
    for number, parameters, beaten_by in jobs:
        yield number, measure(parameters, beaten_by)


def side_by_side(
    bench: TrialBench, count: int, jobs: Iterator[Job]
) -> Generator[tuple[int, Row], None, None]:
    """Results as they come; a job is drawn when a process is free for it. The processes end with
    the generator.

    Raises:
        SelectionError: a process died. Also what went wrong in one of them.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // count)
    processes: dict[Connection, Any] = {}
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            processes[ours] = context.Process(target=_work, args=(theirs, bench, threads), daemon=True)
            processes[ours].start()
            theirs.close()
        idle, busy = list(processes), dict[Connection, int]()
        while True:
            while idle and (job := next(jobs, None)) is not None:
                busy[idle[-1]] = job[0]
                _exchange(partial(idle.pop().send, job[1:]))
            if not busy:
                return
            for one in wait(list(busy)):
                assert isinstance(one, Connection)
                yield busy.pop(one), _exchange(one.recv)
                idle.append(one)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _exchange(step: Callable[[], Any]) -> Any:
    """Raises what a process sent instead of a result, or that it is gone."""
    try:
        found = step()
    except (EOFError, OSError):
        raise SelectionError(
            "a process that tried edits died, perhaps for want of memory; what was tried is kept: run the same command again, with "
            "fewer --processes or a smaller --batch-tokens"
        ) from None
    if isinstance(found, VectomyError):
        raise found
    return found


def _work(connection: Connection, bench: TrialBench, threads: int) -> None:
    """What another process does: load the model and measure edits until there are no more."""
    # Ctrl-C goes to all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    c = bench.config
    try:
        probe_architecture(bench.folder, trust_remote_code=c.runtime.trust_remote_code)
        chat = load_model(
            bench.folder,
            runtime=c.runtime,
            name=bench.name,
        )
        measure = bench.on(chat)
        while (job := _received(connection)) is not None:
            connection.send(measure(*job))
    except VectomyError as error:
        connection.send(error)


def _received(connection: Connection) -> Any:
    """The next job; None when the first process is gone."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None
