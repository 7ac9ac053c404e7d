"""Where the stream is in what a hook sees: transformers blocks take and return it alone, by name or
in a tuple.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["first_input", "first_output"]


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, object]) -> Tensor:
    """The stream that a block or norm is called with, given by place or by name."""
    value = args[0] if args else kwargs["hidden_states"]
    assert isinstance(value, torch.Tensor)
    return value


def first_output(output: Any) -> Tensor:
    """The stream that a module returns, alone or as the first of a tuple."""
    value = output[0] if isinstance(output, tuple) else output
    assert isinstance(value, torch.Tensor)
    return value
