"""One trial: measures an edit on the search prompts, in this process or in others.

KL is cheap and comes first. Then answers are generated a few prompts at a time, until a finished
trial is certain to beat this one.
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

from vectomy.core.errors import ActivationError, SelectionError, VectomyError
from vectomy.core.ranks import Ranks, set_ranks
from vectomy.core.run_config import RunConfig
from vectomy.core.threads import use_threads
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.metrics.judges import Judge, find_refusals
from vectomy.metrics.logits import log_odds
from vectomy.models import ChatModel, load_model, probe_architecture
from vectomy.models.label_scores import kl_divergence
from vectomy.search.recipe import RecipeInput
from vectomy.search.tpe.layer_weights import Parameters, Place, build_edit, directions_after

__all__ = ["Job", "Row", "TrialBench", "one_by_one", "side_by_side"]

# Positive prompts to answer before checking again whether the trial is beaten.
AT_ONCE = 8

Row = dict[str, Any]
"""`kl` (nats), `rate`, `shown` and `seen` (prompts), and `rejected` (the reason or None)."""
Finished = Sequence[tuple[float, int]]
"""For each finished trial: KL, and the number of prompts that show the behaviour."""
Measure = Callable[[Parameters, Finished], Row]
Job = tuple[int, Parameters, Finished]
"""The trial's number, its parameters, and the finished trials that may beat it."""


@dataclass(frozen=True)
class TrialBench:
    """Everything needed to build and measure edits. It is sent to other processes, so it contains
    no model and no tensor.
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
            units=directions_after(task.directions).numpy(),
            positive=task.positive["search"],
            negative=task.negative["search"],
            tokens=list(task.tokens),
            judge=task.judge,
        )

    def edit(self, parameters: Parameters) -> Edit:
        return build_edit(parameters, self.base, self.places, torch.from_numpy(self.units))

    def on(self, chat: ChatModel) -> Measure:
        """A function that measures edits on a loaded model."""
        batch_tokens = self.config.runtime.batch_tokens
        positive, negative = chat.tokens(self.positive), chat.tokens(self.negative)
        base = chat.next_token_log_probs(negative, batch_tokens)

        def measure(parameters: Parameters, beaten_by: Finished) -> Row:
            shown = judged = seen = 0
            with self.edit(parameters).hooks(chat.model):
                try:
                    kl = float(kl_divergence(base, chat.next_token_log_probs(negative, batch_tokens)).mean())
                except ActivationError:
                    return _rejected_row("gives NaN or infinite log-probabilities")
                while seen < len(positive) and not any(
                    kl >= other and shown >= count for other, count in beaten_by
                ):
                    here = slice(seen, seen + AT_ONCE)
                    flags = self._find_shown(chat, self.positive[here], positive[here])
                    shown += flags.count(True)
                    judged += len(flags) - flags.count(None)
                    seen += len(flags)
            if 2 * judged < seen:
                return _rejected_row(f"{seen - judged} of {seen} answers could not be judged")
            return _row(kl, shown, seen, len(positive), seen - judged)

        return measure

    def _find_shown(
        self, chat: ChatModel, prompts: Sequence[Prompt], tokens: list[list[int]]
    ) -> list[bool | None]:
        """Whether each answer shows the behaviour; None if it is not judged."""
        batch_tokens = self.config.runtime.batch_tokens
        if self.judge is None:
            shown = log_odds(chat.next_token_log_probs(tokens, batch_tokens), self.tokens) > 0
            return list(map(bool, shown.tolist()))
        answers = chat.answer(tokens, self.config.answer_tokens, batch_tokens)
        texts = [chat.text(answer) for answer in answers]
        return find_refusals(self.judge, [prompt.text for prompt in prompts], texts)


def _rejected_row(reason: str) -> Row:
    return {**dict.fromkeys(("kl", "rate", "shown")), "seen": 0, "rejected": reason}


def _row(kl: float, shown: int, seen: int, count: int, unjudged: int) -> Row:
    rejected = None
    if seen < count:
        rejected = (
            f"stopped after {seen} of {count} prompts: another edit is no worse in KL and in the behaviour"
        )
    return {"kl": kl, "rate": shown / (count - unjudged), "shown": shown, "seen": seen, "rejected": rejected}


# One process or several


def one_by_one(measure: Measure, jobs: Iterator[Job]) -> Generator[tuple[int, Row], None, None]:
    """Run the jobs in this process; each job is taken when the previous one is done."""
    for number, parameters, beaten_by in jobs:
        yield number, measure(parameters, beaten_by)


def side_by_side(
    bench: TrialBench, count: int, jobs: Iterator[Job]
) -> Generator[tuple[int, Row], None, None]:
    """Run the jobs in `count` processes and yield results as they arrive. A job is taken when a
    process is free for it. The processes end with the generator.

    Raises:
        SelectionError: a process died. Errors of a process are raised as they are.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // count)
    # By this process's end of its pipe, a class of its own on Windows.
    processes: dict[Any, Any] = {}
    try:
        for card in _list_cards(bench.config.runtime.device, count):
            ours, theirs = context.Pipe()
            processes[ours] = context.Process(target=_work, args=(theirs, bench, threads, card), daemon=True)
            processes[ours].start()
            theirs.close()
        idle, busy = list(processes), dict[Any, int]()
        while True:
            while idle and (job := next(jobs, None)) is not None:
                busy[idle[-1]] = job[0]
                _exchange(partial(idle.pop().send, job[1:]))
            if not busy:
                return
            ready: Any
            for ready in wait(list(busy)):
                yield busy.pop(ready), _exchange(ready.recv)
                idle.append(ready)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _list_cards(device: str, count: int) -> list[int | None]:
    """The card of each of `count` processes; None where there are none, or one is named."""
    cards = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return [number % cards if cards else None for number in range(count)]


def _exchange(step: Callable[[], Any]) -> Any:
    """Run one exchange with a process; raise the error that it sent, or SelectionError if
    it died.
    """
    try:
        result = step()
    except (EOFError, OSError):
        raise SelectionError(
            "a process that tried edits died, perhaps out of memory; finished trials are stored: run the "
            "same command again, with "
            "fewer --processes or a smaller --batch-tokens"
        ) from None
    if isinstance(result, VectomyError):
        raise result
    return result


def _work(connection: Connection, bench: TrialBench, threads: int, card: int | None) -> None:
    """The main function of another process: load the model and measure edits until there are none
    left.
    """
    set_ranks(Ranks(card=card))
    # Ctrl-C reaches all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    use_threads(threads)
    c = bench.config
    try:
        probe_architecture(bench.folder, trust_remote_code=c.runtime.trust_remote_code)
        chat = load_model(
            bench.folder,
            runtime=c.runtime.model_copy(update={"threads": threads}),
            name=bench.name,
        )
        measure = bench.on(chat)
        while (job := _receive(connection)) is not None:
            connection.send(measure(*job))
    except VectomyError as error:
        connection.send(error)


def _receive(connection: Connection) -> Any:
    """The next job, or None when the first process has ended."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None
