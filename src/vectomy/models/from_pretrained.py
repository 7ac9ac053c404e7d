"""A whole model by transformers' `from_pretrained`, from weights as they are stored or decoded."""

from __future__ import annotations

import copy
from typing import Any

import torch

from vectomy.checkpoint import Checkpoint
from vectomy.models.precision import stored_dtype
from vectomy.models.stored_weights import DecodedWeight, StoredWeights
from vectomy.models.weights import auto_class

__all__ = ["read_decoded", "read_end_tokens", "read_stored_weights"]


def read_stored_weights(checkpoint: Checkpoint, config: Any, **options: Any) -> tuple[Any, Any]:
    """The model and transformers' account of its loading."""
    model, info = auto_class(config).from_pretrained(checkpoint.path, config=config, **options)
    return model, info


def read_decoded(checkpoint: Checkpoint, config: Any, **options: Any) -> tuple[Any, Any]:
    """The same, of packed weights that are decoded one by one, without the packages of their
    kernels.
    """
    trusted, dtype = options["trust_remote_code"], options.pop("dtype")
    dtype = stored_dtype(config, checkpoint) if dtype == "auto" else dtype
    config = copy.deepcopy(config)
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    with torch.device("meta"):
        kind = type(auto_class(config).from_config(config, trust_remote_code=trusted))
    stored = StoredWeights(checkpoint)
    weights = {name: DecodedWeight(stored, name, dtype) for name in stored.names}
    model, info = kind.from_pretrained(None, config=config, state_dict=weights, dtype=dtype, **options)
    model.generation_config = read_end_tokens(checkpoint, model)
    return model, info


def read_end_tokens(checkpoint: Checkpoint, model: Any) -> Any:
    """A generation config with nothing but the tokens that end an answer."""
    from transformers import GenerationConfig

    stored = model.generation_config
    if (checkpoint.path / "generation_config.json").is_file():
        stored = GenerationConfig.from_pretrained(checkpoint.path, local_files_only=True)
    return GenerationConfig(eos_token_id=stored.eos_token_id)
