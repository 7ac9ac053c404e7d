"""Where the stream is in what a hook sees: transformers blocks take and return it alone, by name or
in a tuple. And the part of a model that computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vectomy.core.arguments import name_of
from vectomy.core.errors import UsageError

__all__ = ["first_input", "first_output", "inner_model", "live_module"]


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


def live_module(model: object) -> nn.Module:
    """The transformers model in what a caller has: the model itself, a `ChatModel` (its `.model`),
    or a PEFT model (the model that it adapts, with its adapters).

    Raises:
        UsageError: `model` is nothing of the kind.
    """
    inner = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if isinstance(inner, nn.Module) and hasattr(inner, "peft_type"):
        inner = inner.get_base_model()
    if isinstance(inner, nn.Module) and hasattr(getattr(inner, "config", None), "to_dict"):
        return inner
    raise UsageError(
        f"{name_of(model)} is no language model of transformers; give a model of "
        "AutoModelForCausalLM, or the ChatModel of vectomy.load_model or vectomy.wrap"
    )
