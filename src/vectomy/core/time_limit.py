"""A bound on the time of code that others wrote, such as a chat template. Loads no torch."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["TimeLimitError", "call_within"]

T = TypeVar("T")


class TimeLimitError(Exception):
    """Raised within a call that takes too long; whoever makes the call turns it into a sentence."""


def call_within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work()`, on any thread. It is stopped between two steps of Python: a single
    long step of a library ends first.

    Raises:
        TimeLimitError: it did not end within `seconds`.
    """
    caller, lock, ended = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not ended:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(caller, ctypes.py_object(TimeLimitError))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        return work()
    finally:
        with lock:
            ended = True
        timer.cancel()
        # One that was raised just now, and has not yet arrived, is taken back.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(caller, None)
