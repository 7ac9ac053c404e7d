"""Errors that mean that memory ran out, on whatever device. Loads no torch."""

from __future__ import annotations

import re

__all__ = ["is_out_of_memory"]

# PyTorch has a class of its own for cards alone; on a processor and on MPS it is the text that says
# so, as in safetensors, whose one class is for all errors. Python's own objects raise MemoryError.
TEXTS = re.compile("out of memory|can(no|')t allocate memory|not enough memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, and not something else failed."""
    # torch.OutOfMemoryError and safetensors.SafetensorError, without importing the two.
    names = [kind.__name__ for kind in type(error).__mro__]
    may_say = isinstance(error, RuntimeError | OSError) or "SafetensorError" in names
    said = may_say and TEXTS.search(str(error)) is not None
    return isinstance(error, MemoryError) or "OutOfMemoryError" in names or said
