"""Quantised blocks taken apart and put together: value = scale * q + offset, with whole numbers q
in a fixed range.

In every type here a block of a row (32 values, or 256 in k-quants) holds its scales, and of each
value one small number. An edit that keeps the scales has to choose new numbers alone: nothing of
how they were found (importance matrices, llama.cpp's own search) is lost, and k-quants can be
written although the gguf library cannot make any. Where the bits lie is data, held to the library's
own readers by tests/checkpoint/test_gguf_blocks.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "LAYOUTS",
    "PLAIN",
    "Blocks",
    "Layout",
    "block_bytes",
    "dequantize_blocks",
    "quantize_blocks",
    "replace_values",
    "unpack_blocks",
]

PLAIN = ("F32", "F16", "BF16")

Bytes = Any
"""numpy uint8, [rows, bytes of a row]."""


@dataclass(frozen=True)
class Plane:
    """Some bits of every value: groups of `width` bytes hold value n of a group in byte n % width,
    at bit `bits` (n // width).
    """

    start: int
    end: int
    bits: int
    width: int

    def read(self, blocks: Bytes) -> Any:
        """[blocks, bytes of a block] to [blocks, values]."""
        groups = blocks[:, self.start : self.end].reshape(len(blocks), -1, 1, self.width)
        return ((groups >> self._shifts) & np.uint8((1 << self.bits) - 1)).reshape(len(blocks), -1)

    def write(self, blocks: Bytes, values: Any) -> None:
        groups = values.reshape(len(blocks), -1, 8 // self.bits, self.width) << self._shifts
        blocks[:, self.start : self.end] = np.bitwise_or.reduce(groups, axis=2).reshape(len(blocks), -1)

    @property
    def _shifts(self) -> Any:
        return np.arange(0, 8, self.bits, dtype=np.uint8).reshape(1, 1, -1, 1)


@dataclass(frozen=True)
class Layout:
    """A type: `zero` is what is stored for q = 0, `low` and `high` are the ends of q."""

    zero: int
    low: int
    high: int
    planes: tuple[Plane, ...]
    """Low bits first."""
    head: int = 0
    """Bytes in front that hold scale and offset, where they can be made anew for a block by itself.
    """
    signed: bool = False
    """Stored in two's complement."""

    def read(self, blocks: Bytes) -> Any:
        stored, shift = np.uint8(0), 0
        for plane in self.planes:
            stored = stored | (plane.read(blocks) << np.uint8(shift))
            shift += plane.bits
        return stored ^ np.uint8(128) if self.signed else stored

    def write(self, blocks: Bytes, stored: Any) -> None:
        stored, shift = stored ^ np.uint8(128) if self.signed else stored, 0
        for plane in self.planes:
            plane.write(blocks, (stored >> np.uint8(shift)) & np.uint8((1 << plane.bits) - 1))
            shift += plane.bits


LAYOUTS: dict[str, Layout] = {
    "Q4_0": Layout(8, -8, 7, (Plane(2, 18, 4, 16),), head=2),
    "Q4_1": Layout(0, 0, 15, (Plane(4, 20, 4, 16),), head=4),
    "Q5_0": Layout(16, -16, 15, (Plane(6, 22, 4, 16), Plane(2, 6, 1, 1)), head=2),
    "Q5_1": Layout(0, 0, 31, (Plane(8, 24, 4, 16), Plane(4, 8, 1, 1)), head=4),
    "Q8_0": Layout(128, -127, 127, (Plane(2, 34, 8, 32),), head=2, signed=True),
    "Q2_K": Layout(0, 0, 3, (Plane(16, 80, 2, 32),)),
    "Q3_K": Layout(4, -4, 3, (Plane(32, 96, 2, 32), Plane(0, 32, 1, 32))),
    "Q4_K": Layout(0, 0, 15, (Plane(16, 144, 4, 32),)),
    "Q5_K": Layout(0, 0, 31, (Plane(48, 176, 4, 32), Plane(16, 48, 1, 32))),
    "Q6_K": Layout(32, -32, 31, (Plane(0, 128, 4, 64), Plane(128, 192, 2, 32))),
}


@dataclass(frozen=True)
class Blocks:
    q: Float[Tensor, "rows columns"]
    scale: Float[Tensor, "rows columns"]
    offset: Float[Tensor, "rows columns"]


def unpack_blocks(raw: Bytes, kind: str) -> Blocks:
    """Scale and offset, from what the library reads with every q set to 0 and to 1."""
    layout = LAYOUTS[kind]
    blocks = raw.reshape(-1, block_bytes(kind))
    q = torch.from_numpy(layout.read(blocks).astype(np.float32)).reshape(len(raw), -1) - layout.zero
    offset, unit = (
        dequantize_blocks(replace_values(raw, kind, torch.full_like(q, number)), kind) for number in (0, 1)
    )
    return Blocks(q, unit - offset, offset)


def replace_values(raw: Bytes, kind: str, q: Float[Tensor, "rows columns"]) -> Bytes:
    """The same blocks with other numbers."""
    layout = LAYOUTS[kind]
    blocks = raw.copy().reshape(-1, block_bytes(kind))
    layout.write(blocks, (q + layout.zero).numpy().astype(np.uint8).reshape(len(blocks), -1))
    return blocks.reshape(raw.shape)


def dequantize_blocks(raw: Bytes, kind: str) -> Float[Tensor, "rows columns"]:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return torch.from_numpy(np.array(dequantize(raw, GGMLQuantizationType[kind]), dtype=np.float32))


def quantize_blocks(values: Float[Tensor, "rows columns"], kind: str) -> Bytes:
    """Rounded to the nearest, in a type that the library can make."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    made = quantize(values.contiguous().numpy(), GGMLQuantizationType[kind])
    return np.ascontiguousarray(made).view(np.uint8).reshape(len(values), -1)


def block_bytes(kind: str) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return int(GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1])
