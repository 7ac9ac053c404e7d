"""The architecture of a model folder: config.json and the names and shapes of its weights,
quantised ones decoded in thought.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vectomy.architecture import Architecture, resolve
from vectomy.checkpoint.index import Checkpoint
from vectomy.checkpoint.quantization import (
    PackedWeight,
    check_supported,
    companions,
    integer_weights,
    locate,
)
from vectomy.checkpoint.quantization.scheme import REMEDY
from vectomy.checkpoint.reader import TORCH_DTYPES, holds_equal
from vectomy.core.errors import ArchitectureError, CheckpointError

__all__ = ["architecture_in"]


def architecture_in(checkpoint: Checkpoint) -> Architecture:
    """Reads headers, and of the weights only a head and an embedding that config.json ties although
    both are stored.

    Raises:
        ArchitectureError: a model type or a way of quantisation that is not known or cannot be
            edited.
        CheckpointError: a writer is missing, or stored in a way that cannot be edited.
    """
    try:
        check_supported(checkpoint.config)
        integers = integer_weights(checkpoint)
        _check_activation_scales(checkpoint, integers)
        # A GGUF file that is seen as a folder has no shards; nothing there is left out on loading.
        result = resolve(checkpoint.config, _shapes(checkpoint, integers), strict=not checkpoint.shards)
        for writer in result.writers:
            for stored in writer.weights:
                entry = checkpoint.tensors.get(stored.name)
                if entry is not None and entry.dtype not in TORCH_DTYPES:
                    locate(checkpoint, stored.name)
                if stored.name in integers and stored.axis != 0:
                    raise CheckpointError(
                        f"'{stored.name}' of a {result.model_type} model is transposed on disk, and its "
                        f"integer groups are not; {REMEDY}"
                    )
    except (ArchitectureError, CheckpointError) as error:
        if not checkpoint.hint:
            raise
        raise type(error)(f"{checkpoint.hint} ({error})") from None
    embedding = result.writer("embedding", None).weights[0].name
    if result.tied and not holds_equal(checkpoint, embedding, result.head):
        return replace(result, tied=False)
    return result


def _check_activation_scales(checkpoint: Checkpoint, integers: Mapping[str, PackedWeight]) -> None:
    """Raises CheckpointError: AWQ scales an activation function; transformers' own classes do
    not.
    """
    parts = {part for packed in integers.values() for part in packed.parts}
    scale = next(
        (name for name in checkpoint.tensors if name.endswith(".scales") and name not in parts), None
    )
    if integers and scale is not None:
        raise CheckpointError(
            f"'{scale}' of {checkpoint.path} scales an activation, which plain weights cannot hold; {REMEDY}"
        )


def _shapes(checkpoint: Checkpoint, integers: Mapping[str, PackedWeight]) -> dict[str, tuple[int, ...]]:
    """Logical weights, in the shape that transformers loads them in."""
    parts = companions(checkpoint)
    shapes: dict[str, tuple[int, ...]] = {name: packed.shape for name, packed in integers.items()}
    for name, entry in checkpoint.tensors.items():
        whole = parts.get(name)
        if whole is None:
            shapes[name] = entry.shape
        elif name == f"{whole}_blocks" and len(entry.shape) == 4:
            # [expert, d_out, group, 16 bytes of two values each]; transformers transposes what it
            # decodes.
            experts, out, groups, half = entry.shape
            shapes[whole] = (experts, groups * half * 2, out)
    return shapes
