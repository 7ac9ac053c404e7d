"""From last hidden states to logits, as the model itself does it: the head, and what scales or caps
its logits (Gemma 2, Granite, Cohere, Falcon H1, ...).
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.core.errors import ModelError

__all__ = ["logits_of"]

# States on which the two ways are compared: large, so that a cap shows. They may part by rounding,
# relative to the largest logit.
TRIED, LARGE = 8, 100.0
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
NARROW = 0.02

# They call the decoder inside of their base model, and put their head behind it as it is.
AROUND_THE_BASE = ("OPTForCausalLM",)

_PLAIN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def logits_of(model: Any, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
    """Logits from what `model.base_model` ends with. Gradients pass through.

    They come from the model's own forward pass with the hidden states put in the place of the base
    model's, or, where that was tried and is the same, from its head alone.

    Raises:
        ModelError: the model's forward pass does not go on from there.
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
    base: nn.Module = model.base_model
    given = _given(rows)
    base._compiled_call_impl = lambda *args, **kwargs: (
        given
    )  # where torch.nn.Module puts what stands in for a call
    try:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        base.__dict__.pop("_compiled_call_impl", None)
    return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


def _given(hidden: Tensor) -> Any:
    """What a base model returns, with nothing but last hidden states: whatever else a model's
    forward asks of it is None.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class Given(BaseModelOutputWithPast):
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    return Given(last_hidden_state=hidden)


def _calls_base(model: Any) -> bool:
    """Whether the model's forward goes through `base_model` as a whole."""
    return model.base_model is not model and type(model).__name__ not in AROUND_THE_BASE


@torch.no_grad()
def _is_plain(model: Any) -> bool:
    """Whether the head alone gives the same. Runs no block: a pass of the caller's may stand in the
    middle of them.
    """
    if not _calls_base(model):
        return True
    weight = model.get_output_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    hidden = (LARGE * torch.randn(TRIED, weight.shape[-1], generator=generator)).to(weight)
    try:
        own = _by_forward(model, hidden).float()
    except (TypeError, AttributeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        raise ModelError(
            f"the forward pass of model type '{model.config.model_type}' does not take last hidden states ({type(error).__name__}: "
            f"{str(error)[:200]}), so its logits cannot be measured; please report the type"
        ) from error
    room = TOLERANCE.get(hidden.dtype, NARROW) * float(own.abs().max())
    return float((_by_head(model, hidden).float() - own).abs().max()) <= room
