"""Whether every tensor of a model is known, so that nothing writes to the stream unseen."""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache

from vectomy.architecture.missing_tensor import explain_missing, find_unmerged
from vectomy.architecture.model_architecture import NUMBER, Architecture
from vectomy.architecture.readers import EXTRA_HEADS, IGNORED, OUTSIDE_BLOCKS, READERS, VALUE_HEADS
from vectomy.architecture.tensor_shapes import check_tensor_shapes
from vectomy.core.errors import ArchitectureError, CheckpointError

__all__ = ["check_covered", "excluded_tensors"]

NOT_LOADED = "no module of the model class has this name: transformers does not load it"


def check_covered(architecture: Architecture, *, shapes: bool = True) -> None:
    """Check that the tables of the family explain every tensor.

    Args:
        shapes: readers, the last norm and the head are checked as well (tensor_shapes.py).

    Raises:
        ArchitectureError: a tensor is no known writer or reader, so it might write to the stream.
        CheckpointError: a writer is missing, and transformers would fill it with random numbers; a
            reader, the last norm or the head has another shape.
    """
    known = {name for writer in architecture.writers for name in writer.tensors}
    excluded = dict(excluded_tensors(architecture))
    if not architecture.tied and architecture.head not in architecture.shapes:
        raise CheckpointError(_explain_no_head(architecture))
    for layer, names in architecture.tensors_by_layer.items():
        start = len(architecture.stored(f"{architecture.family.blocks}.{layer}.")) if layer is not None else 0
        for name in names:
            if name in known or name in excluded:
                continue
            if layer is not None and layer >= architecture.n_layers + architecture.extra_layers:
                raise ArchitectureError(
                    f"tensor '{name}' belongs to layer {layer}, but config.json says {architecture.n_layers} "
                    "layers; config.json and the weights are of different models: take both from one release"
                )
            if not (
                _reads(name[start:], architecture.family.reads)
                if layer is not None
                else _is_outside(name, architecture.head, architecture.family.outside)
            ):
                raise ArchitectureError(_explain_unknown(architecture, name))
    if shapes:
        check_tensor_shapes(architecture)


def _explain_no_head(architecture: Architecture) -> str:
    head, names = architecture.head, architecture.shapes
    start = f"the checkpoint lacks '{head}', and config.json says that it is not tied to the embedding; "
    if any(_matches(name, VALUE_HEADS) for name in names):
        return (
            f"{start}it holds the head of a classifier or reward model instead, which does not generate "
            "text: give the language model that it was trained from"
        )
    if architecture.layout and architecture.stored(f"{architecture.family.blocks}.") in ("layers.", "h."):
        return (
            f"{start}its names are those of the model without a head, as AutoModel saves it: load and save "
            "it with AutoModelForCausalLM from the weights that have the head"
        )
    return start + explain_missing([head], names)


def _explain_unknown(architecture: Architecture, name: str) -> str:
    unmerged = find_unmerged([name])
    if unmerged:
        return f"tensor '{name}' is part of an adapter; {unmerged}"
    return (
        f"tensor '{name}' is not known for model type '{architecture.model_type}': it might write to the "
        "residual stream, so no edit is made. If transformers warns that it does not use the tensor, remove "
        "it from the file; if the model uses it only to read, it belongs into architecture/readers.py"
    )


def excluded_tensors(architecture: Architecture) -> tuple[tuple[str, str], ...]:
    """Pairs of name and reason: tensors that do not write to the residual stream of the text, or
    that transformers does not load. No edit touches them.
    """
    return tuple(
        (name, reason)
        for layer, names in architecture.tensors_by_layer.items()
        for name in names
        if (reason := _find_reason(architecture, layer, name)) is not None
    )


def _find_reason(architecture: Architecture, layer: int | None, name: str) -> str | None:
    """Why no edit touches a tensor; None for a writer, a reader and what is not known."""
    if layer is not None:
        behind = layer - architecture.n_layers
        if 0 <= behind < architecture.extra_layers:
            return "part of a head that predicts more tokens, behind the stream"
        if behind >= 0 and not architecture.strict:
            return f"layer {layer} of a model that has {architecture.n_layers}: transformers does not load it"
        return None
    if _matches(name, EXTRA_HEADS):
        return "part of a head that predicts more tokens, behind the stream"
    if _is_outside(name, architecture.head, architecture.family.outside):
        return None
    if _matches(name, VALUE_HEADS):
        return "part of a value, reward or classification head, behind the stream"
    if architecture.family.multimodal:
        heads = f"{architecture.family.head.rpartition('.')[2]}.weight"
        if not name.startswith(_text_prefixes(architecture)) and not name.endswith(heads):
            return "part of another tower, which writes at the places of its own tokens"
        return None
    return None if architecture.strict or _has_module(architecture, name) else NOT_LOADED


def _text_prefixes(architecture: Architecture) -> tuple[str, ...]:
    inside = (architecture.family.blocks, *(slot.module for slot in architecture.family.embeddings))
    root = architecture.stored(f"{architecture.family.blocks.rpartition('.')[0]}.")
    return (
        *(architecture.stored(f"{name}.") for name in inside),
        architecture.head,
        *([root] if root != "model." else []),
    )


def _has_module(architecture: Architecture, name: str) -> bool:
    """Whether the class of a text model may have a module for a tensor outside of its blocks.

    It has two: the base model, whose own modules may also be stored without its name, and the head.
    """
    family = architecture.family
    modules = (family.blocks, *(slot.module for slot in family.embeddings), family.head)
    first = {part for module in modules for part in module.split(".")}
    stored = {part for module in modules for part in architecture.stored(f"{module}.").split(".")}
    bare = architecture.stored(f"{family.blocks.partition('.')[0]}.") == ""
    return bare or name.partition(".")[0] in first | stored


@lru_cache(maxsize=1 << 14)
def _compile(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return _compile(patterns).fullmatch(name) is not None


def _reads(name: str, more: tuple[str, ...]) -> bool:
    # Expert numbers make no difference: one match serves all.
    return _reads_numbered(NUMBER.sub(".0.", name), more)


@lru_cache(maxsize=1 << 14)
def _reads_numbered(name: str, more: tuple[str, ...]) -> bool:
    return _matches(name, READERS + IGNORED + more)


def _is_outside(name: str, head: str, more: tuple[str, ...]) -> bool:
    return name in (head, f"{head.removesuffix('.weight')}.bias") or _matches(name, OUTSIDE_BLOCKS + more)
