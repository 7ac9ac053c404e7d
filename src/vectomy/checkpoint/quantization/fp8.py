"""FP8 weights: F8_E4M3 or F8_E5M2 values times a scale a tensor, an output row or a block.

DeepSeek-V3 documents the block form
(https://huggingface.co/deepseek-ai/DeepSeek-V3/blob/main/README_WEIGHTS.md): the weight is value *
weight_scale_inv of its 128 x 128 block, whatever the name says; the last blocks of a row or column
are cut off where 128 does not divide it. Scales stored as F8_E8M0 or as bytes are powers of two,
2^(byte - 127).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vectomy.checkpoint.quantization.rounding import E4M3, E5M2, Grid, power_of_two

__all__ = ["grid_of", "new_scales", "pack", "read_scales", "unpack", "write_scales"]

# A block whose largest value shrinks by this factor would fall towards the grid's subnormal values.
SHRUNK = 16.0
E8M0_BIAS, E8M0_NAN = 127, 255


def grid_of(values: Tensor) -> Grid:
    return E4M3 if values.dtype == torch.float8_e4m3fn else E5M2


def unpack(values: Tensor) -> Float[Tensor, "rows columns"]:
    return values.float()


def pack(values: Float[Tensor, "rows columns"], like: Tensor) -> Tensor:
    return values.to(like.dtype)


def exponents(scales: Tensor) -> bool:
    """Scales of one byte are E8M0 exponents, whatever dtype the file calls them."""
    return scales.element_size() == 1


def read_scales(scales: Tensor) -> Float[Tensor, "*shape"]:
    """Scales as float32 numbers; E8M0's NaN becomes infinity."""
    return power_of_two(scales.view(torch.uint8).int() - E8M0_BIAS) if exponents(scales) else scales.float()


def write_scales(scales: Float[Tensor, "*shape"], like: Tensor) -> Tensor:
    """Back in the dtype of `like`; powers of two for E8M0."""
    if not exponents(like):
        return scales.to(like.dtype)
    return (
        (torch.frexp(scales).exponent - 1 + E8M0_BIAS).clamp(0, E8M0_NAN - 1).to(torch.uint8).view(like.dtype)
    )


def new_scales(
    scales: Float[Tensor, "down across"],
    peaks: Float[Tensor, "down across"],
    before: Float[Tensor, "down across"],
    grid: Grid,
    like: Tensor,
) -> tuple[Float[Tensor, "down across"], Bool[Tensor, "down across"]]:
    """Scales for blocks whose largest absolute values go from `before` to `peaks`, and which of
    them are new.

    A scale is kept unless its block would saturate by more than it rounds (half a step), or shrinks
    to where the values lose bits: a kept scale keeps most bytes, and a block that does not change
    keeps it. Scales that are all powers of two stay so; kernels rely on it.
    """
    room = grid.largest * (1 + 2.0 ** -(grid.mantissa + 2))
    renew = (peaks > scales * room) | ((peaks < before / SHRUNK) & (peaks > 0))
    fresh = peaks / grid.largest
    positive = scales[scales > 0]
    if exponents(like) or bool((torch.frexp(positive).mantissa == 0.5).all()):
        fresh = torch.exp2(torch.ceil(torch.log2(fresh)))
    # Neither too small for the scales' own dtype, nor rounded there to another number than is used
    # here.
    least = 2.0**-126 if exponents(like) else torch.finfo(like.dtype).tiny
    fresh = fresh.clamp_min(least)
    fresh = fresh if exponents(like) else fresh.to(like.dtype).float()
    return torch.where(renew, fresh, scales), renew
