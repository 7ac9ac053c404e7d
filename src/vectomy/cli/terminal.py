"""The terminal that commands print to."""

from __future__ import annotations

from rich.console import Console

__all__ = ["open_console"]


def open_console(stderr: bool = False) -> Console:
    """A console that shows text as it is: brackets and colons in a name are no markup or emoji."""
    return Console(stderr=stderr, markup=False, emoji=False)
