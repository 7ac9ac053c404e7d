"""How long the measurements that are left will take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from vectomy.core.progress import Progress, duration
from vectomy.workflows.stages import Log

__all__ = ["Pace", "Work"]

# What an estimate of the rest takes: a share of the work, or seconds of it.
MEASURED_SHARE = 0.1
MEASURED_SECONDS = 20.0
# A later estimate of the rest is said if it is this much away from the one said before, and the
# rest is more than this share of what is done, and takes longer than MEASURED_SECONDS.
CHANGED = 0.2

Work = Literal["answers", "damage", "perplexity", "capability"]
"""Decoded tokens; tokens of answers that are run through the model and its head, twice; tokens of
texts; requests of tasks.
"""
# Seconds of a unit, as long as none is measured, where a decoded token takes 1. Prompts are run
# with their answers (two passes of about twice their tokens), a request has some 100 tokens.
USUAL: dict[Work, float] = {"answers": 1.0, "damage": 0.8, "perplexity": 0.3, "capability": 30.0}


class Pace:
    """A `Progress` that logs how long the measurements that are left will take: not before a tenth
    of the work is done, or answering was timed for 20 seconds; and again where the estimate has
    changed.

    Each kind of work has a pace of its own. Before one is measured it is guessed from the answers,
    which come first.
    """

    def __init__(self, progress: Progress, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._log, self._clock = progress, log, clock
        self.left: dict[Work, float] = defaultdict(float)
        """Units that are left, by kind of work."""
        self.answer_tokens = 1
        """Tokens of each answer that is being given."""
        self._done: dict[Work, float] = defaultdict(float)
        self._seconds: dict[Work, float] = defaultdict(float)
        self._said: float | None = None

    @contextmanager
    def __call__(self, what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        last = self._clock()
        with self._progress(what, total, unit) as update:

            def step(count: int) -> None:
                nonlocal last
                update(count)
                now = self._clock()
                if unit == "prompts":
                    self.add("answers", count * self.answer_tokens, now - last)
                last = now

            yield step

    @contextmanager
    def timed(self, work: Work, units: float) -> Iterator[None]:
        """A context in which `units` of another kind of work are done."""
        began = self._clock()
        yield
        self.add(work, units, self._clock() - began)

    def add(self, work: Work, units: float, seconds: float) -> None:
        """Report work that is done."""
        if not self.left.get(work):
            return
        self.left[work] = max(0.0, self.left[work] - units)
        self._done[work] += units
        self._seconds[work] += seconds
        spent, rest = sum(self._seconds.values()), self._count_rest()
        if not rest:
            return
        measured = spent >= MEASURED_SHARE * (spent + rest)
        if self._said is None:
            if measured or self._seconds["answers"] >= MEASURED_SECONDS:
                self._say(spent, rest)
        elif (
            measured
            and abs(spent + rest - self._said) > CHANGED * rest
            and rest > max(MEASURED_SECONDS, CHANGED * spent)
        ):
            self._say(spent, rest)

    def _count_rest(self) -> float:
        """Seconds of what is left."""
        answers = self._pace("answers") or 0.0
        return sum(
            units * (self._pace(work) or answers * USUAL[work]) for work, units in self.left.items() if units
        )

    def _pace(self, work: Work) -> float | None:
        return self._seconds[work] / self._done[work] if self._done.get(work) else None

    def _say(self, spent: float, rest: float) -> None:
        self._said = spent + rest
        self._log(f"some {duration(rest)} more, going by the first {duration(spent)} of measuring")
