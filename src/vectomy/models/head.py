"""Logits from last hidden states, as the model itself computes them: the head, and the scaling or
capping of its logits (Gemma 2, Granite, Cohere, Falcon H1, ...).
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.core.errors import ModelError
from vectomy.core.module_io import inner_model
from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.placed_module import execution_device
from vectomy.core.quoted_error import quote_error

__all__ = ["logits_of"]

# The number and size of the states on which the two ways are compared; they are large, so that a
# cap shows. The tolerance is relative to the largest logit.
TRIED, LARGE = 8, 100.0
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
NARROW = 0.02

# These models call the decoder inside their base model and apply the head without scaling.
AROUND_THE_BASE = ("OPTForCausalLM",)

_PLAIN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def logits_of(model: Any, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
    """Logits from the output of `inner_model`, differentiable.

    They come from the head alone if that was found to give the same logits as the model's forward
    pass. Otherwise the forward pass runs with these hidden states as the base model's output.

    Raises:
        ModelError: the model's forward pass does not accept hidden states in that place.
    """
    plain = _PLAIN.get(model)
    if plain is None:
        plain = _PLAIN[model] = _is_plain(model)
    return _by_head(model, hidden) if plain else _by_forward(model, hidden)


def _by_head(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.get_output_embeddings()(hidden)
    return logits


def _by_forward(model: Any, hidden: Tensor) -> Tensor:
    rows = hidden.reshape(1, -1, hidden.shape[-1])
    ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=rows.device)
    base = inner_model(model)
    output = _base_output(rows)
    # torch.nn.Module calls this attribute, if set, instead of the module.
    base._compiled_call_impl = lambda *args, **kwargs: output
    try:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        base.__dict__.pop("_compiled_call_impl", None)
    return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


def _base_output(hidden: Tensor) -> Any:
    """An output of a base model that contains only last hidden states; every other attribute is
    None.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class OnlyHidden(BaseModelOutputWithPast):
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    return OnlyHidden(last_hidden_state=hidden)


def _calls_base(model: Any) -> bool:
    """Whether the model's forward calls its inner model as a whole."""
    return inner_model(model) is not model and type(model).__name__ not in AROUND_THE_BASE


@torch.no_grad()
def _is_plain(model: Any) -> bool:
    """Whether the head alone gives the same logits. Runs no block, because the caller's own forward
    pass may be in the middle of one.
    """
    if not _calls_base(model):
        return True
    head = model.get_output_embeddings()
    generator = torch.Generator().manual_seed(0)
    hidden = LARGE * torch.randn(TRIED, head.weight.shape[-1], generator=generator)
    # Not where the weight is: that may be offloaded.
    hidden = hidden.to(execution_device(head), head.weight.dtype)
    try:
        own = _by_forward(model, hidden).float()
    except (TypeError, AttributeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"the forward pass of model type '{model.config.model_type}' does not take last hidden states "
            f"({type(error).__name__}: "
            f"{quote_error(error)}), so its logits cannot be measured; please report the type"
        ) from error
    room = TOLERANCE.get(hidden.dtype, NARROW) * float(own.abs().max())
    return float((_by_head(model, hidden).float() - own).abs().max()) <= room
