"""The size of an edited checkpoint, from the headers of the unedited one."""

from __future__ import annotations

from typing import NamedTuple

from vectomy.architecture import Architecture
from vectomy.checkpoint import Checkpoint
from vectomy.checkpoint.quantization import count_written_bytes

__all__ = ["EditedSize", "count_edited_bytes", "unties_head"]


class EditedSize(NamedTuple):
    """Bytes of an edited checkpoint: its weights, and the files that lie beside them."""

    weights: int
    beside: int

    @property
    def total(self) -> int:
        return self.weights + self.beside


def unties_head(checkpoint: Checkpoint, architecture: Architecture) -> bool:
    """Whether an edit of the embedding stores its tied head as a tensor of its own."""
    return architecture.tied and architecture.head not in checkpoint.tensors


def count_edited_bytes(checkpoint: Checkpoint, architecture: Architecture, *, embeddings: bool) -> EditedSize:
    """Args:
    embeddings: the embedding is edited too.
    """
    weights = count_written_bytes(checkpoint)
    stored = checkpoint.tensors.get(architecture.stored(architecture.family.embeddings[0].live_weight))
    if embeddings and stored is not None and unties_head(checkpoint, architecture):
        weights += stored.end - stored.start
    return EditedSize(weights, sum((checkpoint.path / file).stat().st_size for file in checkpoint.sidecars))
