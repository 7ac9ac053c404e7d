"""A process that kills itself at one of its calls that write; for the benchmarks of killed
commands.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["die_in"]


def die_in(call: str, number: int, after: bool) -> None:
    """From now on the `number`th call ends this process."""
    owner, name = {"os": os, "Path": Path}[call.split(".")[0]], call.split(".")[1]
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
