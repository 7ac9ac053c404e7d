"""A process that kills itself at one of its calls that write; for the benchmarks of killed
commands.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

__all__ = ["count_calls", "die_in"]


def _owner(call: str) -> tuple[Any, str]:
    owner, name = call.split(".")
    return {"os": os, "Path": Path}[owner], name


def count_calls(calls: Iterable[str], counts: Counter[str]) -> None:
    """From now on every call of these is counted in `counts`."""
    for call in calls:
        owner, name = _owner(call)
        setattr(owner, name, _counted(getattr(owner, name), call, counts))


def _counted(real: Callable[..., Any], call: str, counts: Counter[str]) -> Callable[..., Any]:
    def wrapped(*args: Any, **more: Any) -> Any:
        counts[call] += 1
        return real(*args, **more)

    return wrapped


def die_in(call: str, number: int, after: bool) -> None:
    """From now on the `number`th call ends this process."""
    owner, name = _owner(call)
    real: Callable[..., Any] = getattr(owner, name)
    left = [number]

    def wrapped(*args: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **more)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)
