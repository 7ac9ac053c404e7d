"""Store an edited weight in the type that it had, so that the edit survives the rounding
(quantization/rounding.py).

A rank-1 edit moves most weights by less than half a step of a 4-bit grid; rounding each to the
nearest would put much of the direction back. Scales stay; the whole numbers are chosen so that
every vector of the stream keeps its change. A block whose new values leave the range of its scale
gets new scales where the gguf library can make them. A type that is not whole numbers times scales
(IQ, ternary), or one in which a strong edit no longer fits, gives way to a better one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.checkpoint.gguf.blocks import (
    LAYOUTS,
    PLAIN,
    Layout,
    block_bytes,
    dequantize_blocks,
    quantize_blocks,
    replace_values,
    unpack_blocks,
)
from vectomy.checkpoint.quantization.rounding import CHUNK, Steps, round_keeping_change

__all__ = ["BETTER", "StoredBlocks", "requantize_blocks", "rounding_of", "store_as", "store_raw"]

# What takes the place of a type that cannot hold an edit. It is finer than any of those.
BETTER = "Q8_0"
# How much more of an error than the type's own rounding an edited weight may have before a better
# type takes it.
WORSE = 2.0
# By how many steps a value may leave its block's range before the block gets new scales.
OUTSIDE = 0.75
# Columns of a chunk, a multiple of every block.
COLUMNS = 256


@dataclass(frozen=True)
class StoredBlocks:
    """An edited weight as it is to be stored, and what storing it cost."""

    raw: Any
    """numpy uint8, [rows, bytes of a row]."""
    type: str
    error: float
    """|stored - wanted|^2, of all values."""
    wanted: float
    """|wanted|^2."""
    lost: float
    """Of the change of each vector, what is not stored, squared and summed."""
    change: float
    """|wanted - old|^2."""


def requantize_blocks(
    raw: Any,
    kind: str,
    old: Float[Tensor, "rows columns"],
    new: Float[Tensor, "rows columns"],
    vectors: Literal["output", "input"],
) -> StoredBlocks:
    """`new` in the type `kind` of the bytes `raw`, of which `old` are the values.

    Args:
        vectors: "output" where columns are vectors of the stream (a matrix), "input" where rows are
            (an embedding).
    """
    if kind in PLAIN:
        made = quantize_blocks(new, kind)
        # NaN and negative zeros keep their bits where nothing moved.
        same = np.repeat((new == old).numpy(), 4 if kind == "F32" else 2, axis=1)
        return _cost(np.where(same, raw, made), kind, old, new, vectors)
    if kind in LAYOUTS:
        made, usual = _round_blocks(raw, kind, old, new, vectors)
        stored = _cost(made, kind, old, new, vectors)
        if stored.error <= WORSE**2 * usual:
            return stored
    return _cost(quantize_blocks(new, BETTER), BETTER, old, new, vectors)


def store_as(kind: str) -> Callable[..., StoredBlocks]:
    """Stores whatever comes in a type of its own choice, rounded to the nearest."""

    def store(raw: Any, _: str, old: Tensor, new: Tensor, vectors: str) -> StoredBlocks:
        return _cost(quantize_blocks(new, kind), kind, old, new, vectors)

    return store


def store_raw(raw: Any, kind: str, old: Tensor, new: Tensor, vectors: str) -> StoredBlocks:
    """Bytes that were made elsewhere, with what storing `new` in them costs."""
    return _cost(raw, kind, old, new, vectors)


def rounding_of(raw: Any, kind: str) -> float:
    """What rounding to the type, with the scales at hand, does to a weight, relative to its length;
    a bound where it is not known better.
    """
    if kind in PLAIN:
        return {"F32": 1e-6, "F16": 2.0**-10, "BF16": 2.0**-8}[kind]
    if kind not in LAYOUTS:
        return 0.3
    blocks = unpack_blocks(raw, kind)
    length = (blocks.q * blocks.scale + blocks.offset).norm()
    return float(blocks.scale.norm() / math.sqrt(12) / length.clamp_min(torch.finfo(torch.float32).tiny))


def _round_blocks(raw: Any, kind: str, old: Tensor, new: Tensor, vectors: str) -> tuple[Any, float]:
    """The new bytes, and the squared error that rounding by itself would cost."""
    layout, made, usual = LAYOUTS[kind], raw.copy(), 0.0
    for rows, columns, part in _chunks(raw, new, vectors):
        want, was = new[rows, columns], old[rows, columns]
        stored = _with_room(np.ascontiguousarray(raw[rows, part]), kind, layout, want)
        blocks = unpack_blocks(stored, kind)
        scale = torch.where(blocks.scale == 0, 1.0, blocks.scale)
        goal, start, grid = want - blocks.offset, was - blocks.offset, Steps(layout.low, layout.high)
        if vectors == "input":
            q = round_keeping_change(goal.T, start.T, scale.T, grid).T
        else:
            q = round_keeping_change(goal, start, scale, grid)
        # Numbers that still mean what they did stay; a block of scale 0 holds one value whatever
        # they are.
        still = (want == was) & (dequantize_blocks(stored, kind) == was)
        q = torch.where(still | (blocks.scale == 0), blocks.q, q)
        made[rows, part] = replace_values(stored, kind, q)
        usual += float(blocks.scale.square().sum(dtype=torch.float64)) / 12
    return made, usual


def _chunks(raw: Any, new: Tensor, vectors: str) -> list[tuple[slice, slice, slice]]:
    """Rows, columns and bytes of pieces that hold whole vectors and whole blocks."""
    height, width = new.shape
    if vectors == "input":
        step = max(1, CHUNK // width)
        return [(slice(start, start + step), slice(None), slice(None)) for start in range(0, height, step)]
    step = max(1, CHUNK // (height * COLUMNS)) * COLUMNS
    bytes_of = raw.shape[1] / width
    return [
        (
            slice(None),
            slice(start, min(start + step, width)),
            slice(round(start * bytes_of), round(min(start + step, width) * bytes_of)),
        )
        for start in range(0, width, step)
    ]


def _with_room(raw: Any, kind: str, layout: Layout, want: Tensor) -> Any:
    """The blocks, those with new scales that have no room for the new values."""
    if not layout.head:
        return raw
    blocks = unpack_blocks(raw, kind)
    steps = (want - blocks.offset) / torch.where(blocks.scale == 0, math.inf, blocks.scale)
    out = torch.maximum(steps - layout.high, layout.low - steps) > OUTSIDE
    out |= (blocks.scale == 0) & (want != blocks.offset)
    count = len(raw) * (raw.shape[1] // block_bytes(kind))
    full = out.reshape(count, -1).any(1).numpy()
    if not full.any():
        return raw
    stored = raw.copy().reshape(count, -1)
    stored[full, : layout.head] = quantize_blocks(want, kind).reshape(count, -1)[full, : layout.head]
    return stored.reshape(raw.shape)


def _cost(raw: Any, kind: str, old: Tensor, new: Tensor, vectors: str) -> StoredBlocks:
    error, change = dequantize_blocks(raw, kind) - new, new - old
    axis = 0 if vectors == "output" else 1
    along, whole = (error * change).sum(axis), change.square().sum(axis)
    sums = (
        error.square().sum(dtype=torch.float64),
        new.square().sum(dtype=torch.float64),
        torch.where(whole > 0, along.square() / whole, 0.0).sum(dtype=torch.float64),
        whole.sum(dtype=torch.float64),
    )
    return StoredBlocks(raw, kind, *(float(value) for value in sums))
