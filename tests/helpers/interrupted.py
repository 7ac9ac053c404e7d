"""Ctrl-C at a chosen step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any


def interrupting(step: int) -> Any:
    """A `Progress` at whose given step somebody presses Ctrl-C."""

    @contextmanager
    def progress(what: str, total: int, unit: str = "") -> Any:
        done = 0

        def update(count: int) -> None:
            nonlocal done
            done += count
            if done >= step:
                raise KeyboardInterrupt

        yield update

    return progress
