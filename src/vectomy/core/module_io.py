"""Where the stream is in what a hook sees: transformers blocks take and return it alone, by name or
in a tuple. And the part of a model that computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["first_input", "first_output", "inner_model"]


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


def inner_model(model: Any) -> nn.Module:
    """The model without its head: what computes the last hidden states.

    It is `base_model` of transformers; Llama 4 names no base, and `base_model` is the model itself.
    """
    base: nn.Module = getattr(model, "base_model", model)
    own = getattr(model, "model", None)
    return own if base is model and isinstance(own, nn.Module) else base
