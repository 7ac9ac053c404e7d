"""How long work reports itself: a stage calls `progress(what, total, unit)` and then `update(n)`.
Loads no torch.

Stages take a `Progress` and default to `silent`; cli/ passes one that draws bars with rich.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

__all__ = ["Log", "Progress", "duration", "ignore", "silent"]

Log = Callable[[str], None]
"""Takes lines for a person."""


def ignore(line: str) -> None:
    """The log of a caller who wants none."""


@runtime_checkable
class Progress(Protocol):
    def __call__(
        self, what: str, total: int, unit: str = ""
    ) -> AbstractContextManager[Callable[[int], None]]: ...


@contextmanager
def silent(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    def update(count: int) -> None:
        pass

    yield update


def duration(seconds: float) -> str:
    """In words, to the precision of an estimate."""
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{max(1, round(seconds))} s"
    )
