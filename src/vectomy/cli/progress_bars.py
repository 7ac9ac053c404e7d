"""Progress bars on stderr; one line a step where stderr is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vectomy.cli.terminal import open_console

__all__ = ["bars", "library_bars"]

# Seconds of any work.
WHOLE = 1e9


@contextmanager
def bars(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """The `Progress` of this command line (vectomy.progress)."""
    console = open_console(stderr=True)
    if not console.is_terminal:
        began = time.monotonic()
        yield lambda count: None
        console.print(f"{what}: {time.monotonic() - began:.1f} s", highlight=False)
        return
    count: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        count,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Over all that is done: a batch may take longer than the 30 seconds that rich looks back.
    with Progress(*columns, console=console, speed_estimate_period=WHOLE) as progress:
        task = progress.add_task(what, total=total)

        def update(done: int) -> None:
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
