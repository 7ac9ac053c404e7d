"""The architecture of a model folder: config.json and the names and shapes of its weights,
quantised ones decoded in thought.
"""

from __future__ import annotations

from vectomy.architecture import Architecture, resolve
from vectomy.checkpoint.index import Checkpoint
from vectomy.checkpoint.quantization import check_supported, companions

__all__ = ["architecture_in"]


def architecture_in(checkpoint: Checkpoint) -> Architecture:
    """Headers only; no weight is read.

    Raises:
        ArchitectureError: a model type or a way of quantisation that is not known or cannot be
            edited.
    """
    check_supported(checkpoint.config)
    return resolve(checkpoint.config, _shapes(checkpoint))


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
