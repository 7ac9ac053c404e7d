"""Gives memory that nothing uses any more back to the system. Loads no torch."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from typing import Any

__all__ = ["return_freed_memory", "trim_heap"]


def return_freed_memory() -> None:
    """Called where a model was let go of and another may be loaded: what only cycles hold is freed,
    and freed pages are returned. Otherwise they count as used memory of this process, and a model
    that would fit is taken for too large.
    """
    gc.collect()
    trim_heap()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def trim_heap() -> None:
    """Called where some work has freed much in small pieces, which would stay with the process and
    fit none of the next work's.
    """
    trim = _find_trim()
    if trim is not None:
        trim(0)


@cache
def _find_trim() -> Any:
    """glibc's `malloc_trim`: its heap keeps freed blocks below other ones. None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
