"""Folding a direction through what lies between a writer and the stream: a norm
y = g * (x - mean) / length + b, or a learned scale y = g * x.

Whatever the length, r . (y - b) = 0 exactly if the writer's output is orthogonal to the folded
direction g * r (less its mean, for a norm that takes the mean out). So an edit of the stream along
r is an edit of the writer along that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.architecture.writers import PostNorm, Writer
from vectomy.core import linalg
from vectomy.core.placed_module import read_parameter
from vectomy.core.types import Vector

__all__ = [
    "MeasuredGain",
    "WeightOf",
    "combine_removals",
    "fold",
    "fold_all",
    "fold_live",
    "fold_live_removal",
    "fold_removal",
    "measure_gain",
    "norm_gain",
]

WeightOf = Callable[[PostNorm], Tensor]
"""Reads the stored weight of a norm, float32: from a checkpoint or from a live model."""


def fold(rows: Float[Tensor, "k d_model"], gain: Vector, centred: bool = False) -> Float[Tensor, "k d_model"]:
    """The unit vectors that the input of a norm has to be orthogonal to, one for each direction of
    its output. Gradients flow through.
    """
    folded = linalg.widen(rows) * linalg.widen(gain.to(rows.device))
    if centred:
        folded = folded - folded.mean(dim=-1, keepdim=True)
    return linalg.normalise(folded).to(rows.dtype)


def norm_gain(norm: PostNorm, weight_of: WeightOf, width: int) -> Vector:
    """What a norm multiplies its normalised input with."""
    return (weight_of(norm) if norm.norm.learned else torch.ones(width)) + norm.norm.offset


def fold_all(
    norms: Sequence[PostNorm], rows: Float[Tensor, "k d_model"], weight_of: WeightOf
) -> Float[Tensor, "k d_model"]:
    """Directions of the stream in front of all norms of a writer, as unit vectors."""
    for norm in reversed(norms):
        rows = fold(rows, norm_gain(norm, weight_of, rows.shape[-1]), norm.norm.centred)
    return rows


def fold_live(
    model: nn.Module, writer: Writer, rows: Float[Tensor, "k d_model"]
) -> Float[Tensor, "k d_model"]:
    """`fold_all` for a writer of a live model; gradients flow through."""
    return fold_all(writer.norms, rows, _live_weights(model))


def fold_removal(
    norms: Sequence[PostNorm],
    basis: Float[Tensor, "k d_model"],
    strengths: Float[Tensor, " k"],
    weight_of: WeightOf,
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
    """What to remove from a writer's output so that the basis is removed from what reaches the
    stream. Without norms: the basis itself.
    """
    return combine_removals(fold_all(norms, basis, weight_of), strengths) if norms else (basis, strengths)


def fold_live_removal(
    model: nn.Module, writer: Writer, basis: Float[Tensor, "k d_model"], strengths: Float[Tensor, " k"]
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
    """`fold_removal` for a writer of a live model."""
    return fold_removal(writer.norms, basis, strengths, _live_weights(model))


def _live_weights(model: nn.Module) -> WeightOf:
    return lambda norm: read_parameter(model, f"{norm.module}.weight").float()


def combine_removals(
    folded: Float[Tensor, "k d_model"], strengths: Float[Tensor, " k"]
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
    """One removal for folded directions, which are unit vectors but no longer orthogonal.

    Equal strengths act on the span of the folded directions, so that strength 1 removes all of
    them. Other strengths are made one operator by `linalg.joint_removal`. A direction that the norm
    does not let through (zero) is dropped.

    Raises:
        ValueError: the folded directions are linearly dependent, as those of the basis are not.
    """
    kept = (folded.abs().amax(dim=-1) > 0) & (strengths != 0)
    rows, a = folded[kept], strengths[kept]
    if len(rows) < 2:
        return rows, a
    if bool((a == a[0]).all()):
        return linalg.symmetric_basis(rows), a
    return linalg.joint_removal(rows, a)


@dataclass(frozen=True, eq=False)
class MeasuredGain:
    """Gain and bias of a live norm over the stream, as measured."""

    gain: Vector
    bias: Vector
    centred: bool
    """It takes the mean of its input out (LayerNorm)."""
    normalises: bool
    """The length of the input does not matter (a norm), or it does (a learned scale)."""


def measure_gain(norm: nn.Module, width: int) -> MeasuredGain | None:
    """Gain and bias of a live norm or learned scale, from what it makes of vectors with equal
    entries of either sign.

    Entries are large, so that a norm's epsilon does not show. None for a module that does something
    else.
    """
    parameter = next(norm.parameters(), torch.empty(0))
    signs = torch.ones(width, dtype=parameter.dtype, device=parameter.device)
    signs[1::2] = -1.0
    pattern = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(signs)
    given = [signs, -signs, signs + 0.5, 2 * signs, pattern]
    with torch.no_grad():
        up, down, shifted, doubled, any_ = (norm((1e3 * row)[None, None])[0, 0].float() for row in given)
    if up.shape != signs.shape:
        return None
    gain, bias = (up - down) / 2 * signs.float(), (up + down) / 2
    scale = float(gain.abs().max())
    normalises = bool((doubled - up).abs().max() < 1e-3 * scale)
    if not normalises:
        gain = gain / 1e3
    centred = normalises and bool((shifted - up).abs().max() < 1e-3 * scale)
    # Any other vector has to come out as gain times that vector (less its mean), at some length,
    # plus bias.
    expected = gain * (pattern.float() - (pattern.float().mean() if centred else 0.0))
    cosine = linalg.cosine(any_ - bias, expected)
    return MeasuredGain(gain, bias, centred, normalises) if cosine > 0.9999 else None
