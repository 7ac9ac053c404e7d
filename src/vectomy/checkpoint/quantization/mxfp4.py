"""MXFP4 weights as gpt-oss stores them: bytes X_blocks [experts, rows, groups, 16] and X_scales
[experts, rows, groups].

Each group is 32 values along the input axis, two E2M1 numbers a byte, the earlier one in the low
nibble; the scale is an E8M0 exponent, 2^(byte - 127). OCP Microscaling Formats 1.0,
https://www.opencompute.org/documents.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vectomy.checkpoint.quantization.rounding import E2M1, nearest, power_of_two

__all__ = ["new_scales", "pack", "unpack"]

POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = torch.tensor([*POSITIVE, *(-value for value in POSITIVE)])
# From twice a value to its code; numbers between are on no grid.
CODES = torch.tensor([0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7], dtype=torch.uint8)
LEAST, MOST = -127, 127


def unpack(blocks: UInt8[Tensor, "rows groups 16"]) -> Float[Tensor, "rows columns"]:
    """Values in units of their scale."""
    codes = torch.stack((blocks & 0xF, blocks >> 4), dim=-1)
    return VALUES[codes.int()].reshape(blocks.shape[0], -1)


def pack(values: Float[Tensor, "rows columns"]) -> UInt8[Tensor, "rows groups 16"]:
    """Values on the grid; zeros keep their sign."""
    codes = CODES[(2 * values.abs()).int()] | (torch.signbit(values).to(torch.uint8) << 3)
    low, high = codes.reshape(values.shape[0], -1, 16, 2).unbind(-1)
    return low | (high << 4)


def new_scales(
    scales: Float[Tensor, "rows groups"],
    peaks: Float[Tensor, "rows groups"],
    changed: Bool[Tensor, "rows groups"],
    new: Float[Tensor, "rows columns"],
) -> tuple[Float[Tensor, "rows groups"], Bool[Tensor, "rows groups"]]:
    """For each changed group the power of two that rounds it best, and which of them are new.

    Tried are the kept scale, its two neighbours, and the specification's choice,
    floor(log2(largest)) - 2, with the one above. The kept one wins ties, and so a group of zeros
    keeps it.
    """
    stored = torch.frexp(scales).exponent - 1
    ideal = torch.frexp(peaks).exponent - 3
    groups = new.reshape(*scales.shape, -1)
    best, least = stored, torch.full_like(peaks, torch.inf)
    for candidate in (stored, stored - 1, stored + 1, ideal, ideal + 1):
        tried = candidate.clamp(LEAST, MOST)
        power = power_of_two(tried)[..., None]
        error = (nearest(groups / power, E2M1) * power - groups).square().sum(-1)
        # An infinite error (6 * 2^127) is no smaller than the first one.
        better = (error < least) & changed
        best, least = torch.where(better, tried, best), torch.where(better, error, least)
    return power_of_two(best), best != stored
