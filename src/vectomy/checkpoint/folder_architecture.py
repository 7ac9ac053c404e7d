"""The architecture of a model folder: config.json and the names and shapes of its weights,
quantised ones decoded in thought.
"""

from __future__ import annotations

from dataclasses import replace

from vectomy.architecture import Architecture, resolve
from vectomy.checkpoint.index import Checkpoint
from vectomy.checkpoint.quantization import check_supported, companions, locate
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
        # A GGUF file that is seen as a folder has no shards; nothing there is left out on loading.
        result = resolve(checkpoint.config, _shapes(checkpoint), strict=not checkpoint.shards)
        for writer in result.writers:
            for stored in writer.weights:
                entry = checkpoint.tensors.get(stored.name)
                if entry is not None and entry.dtype not in TORCH_DTYPES:
                    locate(checkpoint, stored.name)
    except (ArchitectureError, CheckpointError) as error:
        if not checkpoint.hint:
            raise
        raise type(error)(f"{checkpoint.hint} ({error})") from None
    embedding = result.writer("embedding", None).weights[0].name
    if result.tied and not holds_equal(checkpoint, embedding, result.head):
        return replace(result, tied=False)
    return result


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Logical weights, in the shape that transformers loads them in."""
    parts = companions(checkpoint)
    shapes: dict[str, tuple[int, ...]] = {}
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
