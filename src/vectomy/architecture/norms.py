"""What stands between a writer and the stream: a norm y = g * (x - mean) / length + b, or a learned
scale y = g * x.

Whatever the length, r . (y - b) = 0 exactly if the writer's output is orthogonal to the folded
direction g * r (less its mean, for a norm that takes the mean out). So an edit of the stream along
r is an edit of the writer along that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.core import linalg
from vectomy.core.types import Vector

__all__ = ["Gain", "MeasuredGain", "measure_gain"]

# A folded direction shorter than this share of the gain reaches the stream by rounding alone.
NEGLIGIBLE = 1e-7


@dataclass(frozen=True, eq=False)
class Gain:
    """Gain and bias of a norm over the stream; `centred` norms take the mean of their input out
    (LayerNorm).
    """

    gain: Vector
    bias: Vector
    centred: bool = False

    def fold(self, rows: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
        """The unit vectors that the writer's output has to be orthogonal to, one for each direction
        of the stream.
        """
        folded = rows.double() * self.gain.double()
        if self.centred:
            folded = folded - folded.mean(dim=-1, keepdim=True)
        return linalg.normalise(folded).to(rows.dtype)


@dataclass(frozen=True, eq=False)
class MeasuredGain(Gain):
    """A gain as it was measured on a live module."""

    normalises: bool = True
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
