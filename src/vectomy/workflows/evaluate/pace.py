"""How long the answers that are left will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vectomy.core.progress import Progress, duration
from vectomy.workflows.stages import Log

__all__ = ["Pace"]


class Pace:
    """A `Progress` that logs after the first batch of answers how long all of them will take."""

    def __init__(self, progress: Progress, log: Log) -> None:
        self._progress, self._log = progress, log
        self.left = 0

    @contextmanager
    def __call__(self, what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        began = time.monotonic()
        with self._progress(what, total, unit) as update:

            def step(count: int) -> None:
                update(count)
                if self.left > count and unit == "prompts":
                    seconds = (time.monotonic() - began) / count * self.left
                    self._log(
                        f"some {duration(seconds)} for {self.left:,} answers, going by the first {count}"
                    )
                    self.left = 0

            yield step
