"""Controls: an edit as large as the real one, along random directions.

The difference between the effects of the two is due to the direction; the rest is due to the size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.errors import EditError
from vectomy.edits.edit import Edit

__all__ = ["random_control"]

# A direction of the edit's span shorter than this share of the longest is a rounding error of
# another.
NEGLIGIBLE = 1e-5


def random_control(edit: Edit, seed: int) -> Edit:
    """The edit with the span of its directions rotated onto a random span of the same dimension.

    With S the orthonormal rows that span all bases and additions of the edit, and R as many random
    orthonormal rows, every vector v becomes v S^T R. Writers, strengths, ranks, lengths and the
    angles between directions of different layers stay.

    Raises:
        EditError: the edit has no directions.
    """
    vectors = [op.basis.double() for op in edit.operations]
    vectors += [op.addition.double()[None] for op in edit.operations if op.addition is not None]
    if not vectors:
        raise EditError("the edit changes nothing, so there is no random edit of its size")
    span = _span(torch.cat(vectors))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(span.shape[1], span.shape[0], generator=generator, dtype=torch.float64)
    rows = torch.linalg.qr(drawn)[0].T

    def rotate(vector: Tensor) -> Tensor:
        return (vector.double() @ span.T @ rows).float()

    operations = tuple(
        replace(op, basis=rotate(op.basis), addition=None if op.addition is None else rotate(op.addition))
        for op in edit.operations
    )
    return replace(
        edit, operations=operations, about={"control": "random directions", "seed": seed, "of": edit.sha256}
    )


def _span(vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "k d_model"]:
    """Orthonormal rows with the same span. Equal rows, of which most edits have hundreds, count
    once.
    """
    distinct = torch.unique(vectors, dim=0)
    _, sizes, axes = torch.linalg.svd(distinct, full_matrices=False)
    return axes[sizes > NEGLIGIBLE * sizes.max()]
