"""What `save_pretrained` would write of a live model, without writing it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vectomy.core.errors import ModelError
from vectomy.core.placed_module import read_parameter
from vectomy.models.quiet import quiet

__all__ = ["saved_tensors"]


def saved_tensors(model: Any) -> dict[str, Tensor]:
    """The tensors under the names that `save_pretrained` gives them, tied ones once.

    Raises:
        ModelError: weights are in no memory.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = set(model._keys_to_ignore_on_save or ())
    state = {
        name: read_parameter(model, name) if value.is_meta else value
        for name, value in model.state_dict().items()
        if name not in ignored
    }
    empty = next((name for name, value in state.items() if value.is_meta), None)
    if empty is not None:
        raise ModelError(
            f"the weights of '{empty}' are in no memory (device meta), so an Edit cannot name its base; "
            "load the model whole, or name its folder: vectomy.wrap(model, tokenizer, folder=DIR)"
        )
    with quiet():
        result: dict[str, Tensor] = revert_weight_conversion(
            model, remove_tied_weights_from_state_dict(state, model)
        )
    return result
