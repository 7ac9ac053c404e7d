"""A model that is loaded already, as a ChatModel: it stays where it is and as it is.

    chat = vectomy.wrap(model, tokenizer)

An Edit made for the model names the weights that it has in memory. Where the folder or download
that it was loaded from still holds the same weights, that is the folder of the ChatModel.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vectomy.architecture import Architecture, architecture_of
from vectomy.architecture.live_weights import find_adapted
from vectomy.checkpoint import Checkpoint, architecture_in, read_stored
from vectomy.checkpoint.reader import TORCH_DTYPES
from vectomy.core.arguments import name_of
from vectomy.core.errors import ModelError, UsageError, VectomyError
from vectomy.core.module_io import live_module
from vectomy.core.repo_name import split_revision
from vectomy.models.chat import ChatModel
from vectomy.models.chat_template import read_template

__all__ = ["require_chat", "wrap"]

# Values that are compared at once.
BLOCK = 1 << 24


def wrap(
    model: object,
    tokenizer: object = None,
    *,
    name: str | None = None,
    thinking: bool = False,
    folder: str | Path | None = None,
) -> ChatModel:
    """A loaded transformers model as the `ChatModel` that every function of Vectomy takes.

    The model is neither moved nor changed: it keeps its device, dtype, placement and hooks, and
    what Vectomy registers on it is removed when the work ends. The tokenizer is not changed either.
    Its weights are compared with those of its folder, which reads them once.

        model = AutoModelForCausalLM.from_pretrained(NAME, device_map="auto")
        chat = vectomy.wrap(model, AutoTokenizer.from_pretrained(NAME))
        stats = vectomy.collect(chat, ["How do I bake bread?"])

    Args:
        model: a causal language model of transformers in evaluation mode, or a PEFT model around
            one; of a `ChatModel` the same is returned.
        tokenizer: its tokenizer, for prompts as text. None: the model takes token ids only.
        name: what messages call it; by default the name that it was loaded under.
        thinking: let a model with a thinking block think before it answers.
        folder: the model folder with the same weights, where it is not the one that the model was
            loaded from. `vectomy.bake` copies it.

    Raises:
        UsageError: `model` is no model of transformers, or `tokenizer` no tokenizer.
        ArchitectureError: the model type is not known.
        ModelError: the model is in training mode, or `folder` has other weights.
        CheckpointError: `folder` is incomplete.
    """
    if isinstance(model, ChatModel):
        return model
    module: Any = live_module(model)
    if module.training:
        raise ModelError(
            f"the {type(module).__name__} is in training mode, where dropout changes every pass; "
            "call model.eval() first"
        )
    architecture = architecture_of(module)
    text_tokenizer = None if tokenizer is None else _copy_tokenizer(tokenizer)
    label = name or _short_name(module)
    checkpoint = _find_checkpoint(module, architecture, folder)
    if checkpoint is None:
        kept = Checkpoint(Path(label), module.config.to_dict(), (), None, (), (), {})
        return ChatModel(label, kept, architecture, module, text_tokenizer, thinking)
    return ChatModel(label, checkpoint, architecture_in(checkpoint), module, text_tokenizer, thinking)


def require_chat(model: object) -> ChatModel:
    """The model, if it is a ChatModel.

    Raises:
        UsageError: it is something else; with how to make one of it.
    """
    if isinstance(model, ChatModel):
        return model
    live = hasattr(getattr(model, "config", None), "to_dict")
    remedy = (
        "wrap it with its tokenizer: vectomy.wrap(model, tokenizer)"
        if live
        else "give that of vectomy.load_model(FOLDER) or vectomy.wrap(model, tokenizer)"
    )
    raise UsageError(f"{name_of(model)} is no ChatModel; {remedy}")


def _copy_tokenizer(tokenizer: object) -> object:
    if not callable(tokenizer) or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise UsageError(
            f"{name_of(tokenizer)} is no tokenizer; give the model's own: AutoTokenizer.from_pretrained(NAME)"
        )
    # Its template is completed, and its date frozen: attributes of the copy alone.
    own = copy.copy(tokenizer)
    read_template(own, Path(str(getattr(tokenizer, "name_or_path", "") or ".")))
    return own


def _short_name(module: Any) -> str:
    named = str(getattr(module.config, "_name_or_path", "") or "")
    path = Path(named)
    return (path.name if path.is_dir() else named) or type(module).__name__


def _find_checkpoint(module: Any, architecture: Architecture, folder: str | Path | None) -> Checkpoint | None:
    """The folder with the weights of the model: the given one, or the one that it was loaded from
    if that has the same weights. None: it is in memory alone.
    """
    if folder is not None:
        given = Checkpoint.open(folder)
        differs = _find_difference(given, module)
        if differs is not None:
            raise ModelError(
                f"'{differs}' of the model differs from the one in {given.path}; give the folder that holds "
                "its weights, or leave `folder` out"
            )
        return given
    path = _locate(module)
    try:
        checkpoint = None if path is None else Checkpoint.open(path)
        return None if checkpoint is None or _find_difference(checkpoint, module) else checkpoint
    except VectomyError:
        return None


def _locate(module: Any) -> Path | None:
    """The folder or the download that the model was loaded from."""
    named = str(getattr(module.config, "_name_or_path", "") or "")
    if not named:
        return None
    path = Path(named).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, revision = split_revision(named)
    commit = getattr(module.config, "_commit_hash", None)
    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision or commit)
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


@torch.no_grad()
def _find_difference(checkpoint: Checkpoint, module: nn.Module) -> str | None:
    """The first parameter that is not that of the checkpoint, in the model's dtype, or the first
    layer with an adapter: one pass over the weights. What is packed, offloaded or stored under
    another name is not compared.
    """
    stored = architecture_in(checkpoint)
    if (stored.d_model, stored.n_layers) != (
        architecture_of(module).d_model,
        architecture_of(module).n_layers,
    ):
        return "config"
    if adapted := find_adapted(module):
        return adapted[0]
    for name, value in module.named_parameters():
        entry = checkpoint.tensors.get(stored.stored(name))
        plain = entry is not None and entry.dtype in TORCH_DTYPES and value.dtype in TORCH_DTYPES.values()
        if entry is None or not plain or value.is_meta or tuple(entry.shape) != tuple(value.shape):
            continue
        if not _is_stored(value, checkpoint, entry.name):
            return name
    return None


def _is_stored(value: Tensor, checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is the stored one in its own dtype; read in blocks of rows."""
    if not value.ndim or not value.numel():
        return torch.equal(value.cpu(), read_stored(checkpoint, name).to(value.dtype))
    rows = max(1, BLOCK // (value.numel() // len(value)))
    for first in range(0, len(value), rows):
        own = value[first : first + rows].cpu()
        if not torch.equal(own, read_stored(checkpoint, name, first, first + len(own)).to(own.dtype)):
            return False
    return True
