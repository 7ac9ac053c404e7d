"""What an edit does to one writer as a product of two thin matrices: W' = W + L R, from a
checkpoint alone.

W' = W - B^T diag(a) (B W), so L = -B^T diag(a) (d_model x k) and R = B W (k x d_in). Norm mode row,
with n the lengths of W's rows: W' = n normalise(V) row by row, where V = W + L R with L = -n B^T
diag(a) and R = B (W / n). That is DoRA's form (arXiv 2402.09353, equation 5), with n for its
magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Writer
from vectomy.checkpoint import Checkpoint, read_stored
from vectomy.checkpoint.quantization import decode, locate
from vectomy.core import linalg
from vectomy.core.errors import EditError
from vectomy.core.types import NormMode
from vectomy.edits.operation import Operation, fold_operation

__all__ = ["Factors", "Removal", "factors_of", "read_weight", "removal_of"]

Removal = tuple[Float[Tensor, "k d_model"], Float[Tensor, " k"]]


@dataclass(frozen=True, eq=False)
class Factors:
    left: Float[Tensor, "d_model k"]
    right: Float[Tensor, "k d_in"]
    magnitude: Float[Tensor, " d_model"] | None = None
    """The lengths of the edited rows, if requested."""


def removal_of(checkpoint: Checkpoint, writer: Writer, operation: Operation) -> Removal:
    """Directions and strengths of the removal from the writer's own output, with the norms behind
    it folded in, without directions of strength 0.

    One direction of strength 0 stays where there is no other: an adapter has at least rank 1.
    """
    basis, strengths = fold_operation(checkpoint, writer, operation)
    kept = strengths != 0
    if kept.any():
        return basis[kept].float(), strengths[kept].float()
    return operation.basis[:1].float(), torch.zeros(1)


def read_weight(checkpoint: Checkpoint, name: str, axis: int) -> tuple[Tensor, int]:
    """A stored weight, decoded if it is quantised, and which of its axes is the stream's."""
    encoded = locate(checkpoint, name)
    parts = {part: read_stored(checkpoint, part) for part in encoded.parts}
    if encoded.encoding == "plain":
        return parts[name], axis
    return decode(encoded, parts), encoded.stream_axis(axis)


def factors_of(
    weight: Float[Tensor, "rows columns"],
    axis: int,
    removal: Removal,
    norm: NormMode,
    *,
    lengths: bool,
    name: str,
) -> Factors:
    """The factors of one matrix whose `axis` is the stream's, in float32.

    Args:
        lengths: give the lengths of the edited rows too, which DoRA wants of every weight.

    Raises:
        EditError: with `lengths`, an edited row is zero, so that it has no direction.
    """
    basis, strengths = removal
    old = _row_lengths(weight, axis) if lengths else torch.ones(basis.shape[1])
    unit = torch.where(old > 0, old, 1.0) if norm == "row" else torch.ones_like(old)
    left, right = -(basis * strengths[:, None] * unit).T, _inside(weight, axis, basis / unit)
    if not lengths:
        return Factors(left, right)
    edited = _row_lengths(weight, axis, left, right)
    short = edited <= linalg.NEGLIGIBLE * torch.where(old > 0, old, 1.0)
    if short.any():
        raise EditError(
            f"the edit leaves nothing of row {int(short.nonzero()[0])} of '{name}', and DoRA, which "
            "carries norm mode row, divides by its length; use norm mode none, or bake the edit"
        )
    return Factors(left, right, old if norm == "row" else edited)


def _tiles(weight: Tensor) -> Iterator[slice]:
    rows = max(1, linalg.TILE // max(1, weight.shape[1]))
    return (slice(at, at + rows) for at in range(0, len(weight), rows))


def _inside(
    weight: Float[Tensor, "rows columns"], axis: int, basis: Float[Tensor, "k d_model"]
) -> Float[Tensor, "k d_in"]:
    """B W, summed in float32 whatever the weight's dtype, without a copy of the whole weight."""
    if axis == 1:
        return torch.cat([weight[tile].float() @ basis.T for tile in _tiles(weight)]).T.contiguous()
    total = torch.zeros(len(basis), weight.shape[1])
    for tile in _tiles(weight):
        total.addmm_(basis[:, tile], weight[tile].float())
    return total


def _row_lengths(
    weight: Float[Tensor, "rows columns"], axis: int, left: Tensor | None = None, right: Tensor | None = None
) -> Float[Tensor, " d_model"]:
    """|W_i|, or |(W + L R)_i|, of every row of the stream."""
    squares = torch.zeros(weight.shape[axis])
    for tile in _tiles(weight):
        part = weight[tile].float() if axis == 0 else weight[tile].float().T
        if left is not None and right is not None:
            part = part + (left[tile] @ right if axis == 0 else left @ right[:, tile])
        if axis == 0:
            squares[tile] = part.square().sum(dim=1)
        else:
            squares += part.square().sum(dim=1)
    return squares.sqrt()
