"""Progress bars on stderr; one line a step where stderr is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from vectomy.cli.terminal import Verbosity, log_line, open_console, verbosity
from vectomy.core.byte_count import write_bytes
from vectomy.core.progress import duration
from vectomy.core.remaining_time import RemainingTime

__all__ = ["bars", "library_bars"]

# Seconds between the lines of one piece of work, where stderr is no terminal.
LINE_SECONDS = 30.0


class RemainingColumn(ProgressColumn):
    """How long the rest will take, by `RemainingTime`: dashes before a tenth is done."""

    max_refresh = 0.5

    def __init__(self, remaining: RemainingTime) -> None:
        super().__init__()
        self._remaining = remaining

    def render(self, task: Task) -> Text:
        seconds = self._remaining.count_down()
        if task.finished or seconds is None:
            return Text("-:--:--", style="progress.remaining")
        return Text(str(timedelta(seconds=round(seconds))), style="progress.remaining")


class _PlainProgress:
    """A line every LINE_SECONDS, for logs."""

    def __init__(self, what: str, total: int, unit: str, clock: Callable[[], float]) -> None:
        self.what, self.unit, self.clock = what, unit, clock
        self.remaining = RemainingTime(total, clock)
        self.began = self.last = clock()

    def update(self, count: int) -> None:
        self.remaining.add(count)
        now = self.clock()
        if now - self.last < LINE_SECONDS or self.remaining.done >= self.remaining.total:
            return
        self.last = now
        done, total, seconds = self.remaining.done, self.remaining.total, self.remaining.seconds
        amount = f"{done:,} of {total:,} {self.unit}".strip() if self.unit != "bytes" else write_bytes(done)
        rest = "" if seconds is None else f", some {duration(seconds)} more"
        log_line(f"{self.what}: {amount} ({done / total:.0%}) after {duration(now - self.began)}{rest}")


@contextmanager
def bars(
    what: str, total: int, unit: str = "", clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """The `Progress` of this command line (vectomy.progress)."""
    if verbosity() is Verbosity.QUIET:
        yield lambda count: None
        return
    console = open_console(stderr=True)
    if not console.is_terminal:
        lines = _PlainProgress(what, total, unit, clock)
        yield lines.update
        log_line(f"{what}: {clock() - lines.began:.1f} s")
        return
    count: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    remaining = RemainingTime(total, clock)
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        count,
        TimeElapsedColumn(),
        RemainingColumn(remaining),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)

        def update(done: int) -> None:
            remaining.add(done)
            progress.advance(task, done)

        yield update


@contextmanager
def library_bars(wanted: bool) -> Iterator[None]:
    """The Hub library's own bars within one file; hidden unless wanted."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    if not wanted:
        disable_progress_bars()
    try:
        yield
    finally:
        if not before and not wanted:
            enable_progress_bars()
