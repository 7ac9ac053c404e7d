"""How long the answers that are left will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vectomy.core.progress import Progress, duration
from vectomy.workflows.stages import Log

__all__ = ["Pace"]

# What an estimate of the rest takes: a share of the answers, or seconds of answering.
MEASURED_SHARE = 0.1
MEASURED_SECONDS = 20.0


class Pace:
    """A `Progress` that logs once how long the answers that are left will take: not before a tenth
    of them is there, or answering was timed for 20 seconds.
    """

    def __init__(self, progress: Progress, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._log, self._clock = progress, log, clock
        self.left = 0
        self._done, self._seconds = 0, 0.0

    @contextmanager
    def __call__(self, what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        last = self._clock()
        with self._progress(what, total, unit) as update:

            def step(count: int) -> None:
                nonlocal last
                update(count)
                now = self._clock()
                if self.left and unit == "prompts":
                    self._measure(count, now - last)
                last = now

            yield step

    def _measure(self, count: int, seconds: float) -> None:
        self._done, self._seconds = self._done + count, self._seconds + seconds
        rest = self.left - self._done
        if rest <= 0:
            self.left = 0
        elif self._done >= MEASURED_SHARE * self.left or self._seconds >= MEASURED_SECONDS:
            self._log(
                f"some {duration(self._seconds / self._done * rest)} more for {rest:,} answers, going by "
                f"the first {self._done:,}"
            )
            self.left = 0
