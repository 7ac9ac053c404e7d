"""Whether every tensor of a model is known, so that nothing writes to the stream unseen."""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache

from vectomy.architecture.model_architecture import LACKING, NUMBER, Architecture
from vectomy.architecture.readers import EXTRA_HEADS, IGNORED, OUTSIDE_BLOCKS, READERS
from vectomy.core.errors import ArchitectureError, CheckpointError

__all__ = ["check_covered", "excluded_tensors"]


def check_covered(architecture: Architecture) -> None:
    """Check that the tables of the family explain every tensor.

    Raises:
        ArchitectureError: a tensor is no known writer or reader, so it might write to the stream.
        CheckpointError: a writer is missing; transformers would fill it with random numbers.
    """
    known = {name for writer in architecture.writers for name in writer.tensors}
    excluded = dict(excluded_tensors(architecture))
    if not architecture.tied and architecture.head not in architecture.shapes:
        raise CheckpointError(
            f"the checkpoint lacks '{architecture.head}', and config.json says that it is not tied to the "
            f"embedding; {LACKING}"
        )
    for layer, names in architecture.tensors_by_layer.items():
        if layer is not None and layer >= architecture.n_layers + architecture.extra_layers:
            raise ArchitectureError(
                f"tensor '{names[0]}' belongs to layer {layer}, but config.json says {architecture.n_layers} "
                "layers"
            )
        start = len(architecture.stored(f"{architecture.family.blocks}.{layer}.")) if layer is not None else 0
        for name in names:
            if name in known or name in excluded:
                continue
            if not (
                _reads(name[start:], architecture.family.reads)
                if layer is not None
                else _is_outside(name, architecture.head, architecture.family.outside)
            ):
                raise ArchitectureError(
                    f"tensor '{name}' is not known for model type '{architecture.model_type}': it might "
                    "write to the residual stream, so no edit is made; add it to architecture/readers.py if "
                    "it only reads"
                )


def excluded_tensors(architecture: Architecture) -> tuple[tuple[str, str], ...]:
    """Pairs of name and reason: tensors that write, but not to the residual stream of the text. No
    edit touches them.
    """
    excluded = []
    inside = (architecture.family.blocks, *(slot.module for slot in architecture.family.embeddings))
    root = architecture.stored(f"{architecture.family.blocks.rpartition('.')[0]}.")
    text = (
        *(architecture.stored(f"{name}.") for name in inside),
        architecture.head,
        *([root] if root != "model." else []),
    )
    heads = f"{architecture.family.head.rpartition('.')[2]}.weight"
    for layer, names in architecture.tensors_by_layer.items():
        behind = (
            layer is not None
            and architecture.n_layers <= layer < architecture.n_layers + architecture.extra_layers
        )
        for name in names:
            if behind or (layer is None and _matches(name, EXTRA_HEADS)):
                excluded.append((name, "part of a head that predicts more tokens, behind the stream"))
            elif (
                layer is None
                and architecture.family.multimodal
                and not name.startswith(text)
                and not name.endswith(heads)
                and not _is_outside(name, architecture.head, architecture.family.outside)
            ):
                excluded.append((name, "part of another tower, which writes at the places of its own tokens"))
    return tuple(excluded)


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
