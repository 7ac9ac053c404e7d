"""How long work will still take, from the pace of this work itself and of nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vectomy.core.progress import Log, Progress, duration

__all__ = ["RemainingTime", "log_remaining"]

# Steps of this share are measured before anything is said.
MEASURED_SHARE = 0.1


class RemainingTime:
    """Seconds for the steps that are left.

    The first report counts for nothing: it holds what is done once (compiling, first allocations)
    and, of work that is resumed, the steps of an earlier process.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done = total, 0
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._last = 0.0

    def add(self, count: int) -> None:
        """Report that `count` more steps are done."""
        self.done, self._last = self.done + count, self._clock()
        if self._first is None:
            self._first = self.done, self._last

    @property
    def seconds(self) -> float | None:
        """None before a tenth of the steps that were left at the first report is measured."""
        if self._first is None:
            return None
        before, began = self._first
        measured = self.done - before
        if measured <= 0 or measured < MEASURED_SHARE * (self.total - before):
            return None
        return (self._last - began) / measured * (self.total - self.done)

    def count_down(self) -> float | None:
        """`seconds` less the time since the last report: what a clock that is looked at now and
        then shows. Not below 0.
        """
        seconds = self.seconds
        return None if seconds is None else max(0.0, seconds - (self._clock() - self._last))


def log_remaining(progress: Progress, log: Log, clock: Callable[[], float] = time.monotonic) -> Progress:
    """A `Progress` that also logs once, behind the first tenth, how long the rest will take."""

    @contextmanager
    def report(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        remaining, said = RemainingTime(total, clock), False
        with progress(what, total, unit) as update:

            def step(count: int) -> None:
                nonlocal said
                update(count)
                remaining.add(count)
                seconds = remaining.seconds
                if not said and seconds:
                    said = True
                    log(
                        f"{what}: some {duration(seconds)} more, going by the first {remaining.done:,} of "
                        f"{total:,} {unit}"
                    )

            yield step

    return report
