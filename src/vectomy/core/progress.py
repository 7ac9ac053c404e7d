"""How long work reports itself: a stage calls `progress(what, total, unit)` and then `update(n)`.
Loads no torch.

Stages take a `Progress` and default to `silent`; cli/ passes one that draws bars with rich. What
people call from Python defaults to `automatic`: bars in a notebook, and nothing elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

__all__ = [
    "Log",
    "Progress",
    "automatic",
    "duration",
    "ignore",
    "in_notebook",
    "silent",
    "tell_in_notebook",
]

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


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook (Jupyter, Colab, VS Code, Kaggle)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell" or "google.colab" in sys.modules


@contextmanager
def automatic(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """A bar in a notebook, with the time that is left; silent elsewhere."""
    if not in_notebook():
        with silent(what, total, unit) as update:
            yield update
        return
    from tqdm.auto import tqdm

    size = {"unit": "B", "unit_scale": True} if unit == "bytes" else {"unit": f" {unit}" if unit else "it"}
    with tqdm(total=total, desc=what, leave=False, **size) as bar:
        yield bar.update


def tell_in_notebook(line: str) -> None:
    """A line for a person in a notebook; nothing elsewhere."""
    if in_notebook():
        sys.stdout.write(f"{line}\n")


def duration(seconds: float) -> str:
    """In words, to the precision of an estimate."""
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{max(1, round(seconds))} s"
    )
