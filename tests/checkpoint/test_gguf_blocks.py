"""Quantised blocks come apart and together again, and an edit stored in them is still there.

The gguf library is the oracle of what bytes mean; rounding each value to the nearest is what the
edit would not survive.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from vectomy.checkpoint.gguf.block_rounding import BETTER, requantize_blocks, rounding_of
from vectomy.checkpoint.gguf.blocks import (
    LAYOUTS,
    dequantize_blocks,
    quantize_blocks,
    replace_values,
    unpack_blocks,
)
from vectomy.core import linalg

TIER = "unit"

ROWS, COLUMNS = 96, 512
# By type, where a block has its float16 scales.
SCALES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
}
CLASSIC = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def random_blocks(kind: str, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Any bytes are numbers and small scales; the large ones are made sensible."""
    size, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = np.random.default_rng(0).integers(0, 256, (rows * columns // size, width), dtype=np.uint8)
    for at in SCALES.get(kind, (0,)):
        blocks[:, at : at + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    if kind == "Q8_0":
        blocks[:, 2:][blocks[:, 2:] == 128] = 129
    return blocks.reshape(rows, -1)


def stored_matrix(kind: str) -> np.ndarray:
    """As it comes: rounded where the library can, else random scales with numbers that are mostly
    small, as weights are.
    """
    if kind in CLASSIC:
        return quantize_blocks(torch.randn(ROWS, COLUMNS), kind)
    layout = LAYOUTS[kind]
    middle, spread = (layout.high + layout.low) / 2, (layout.high - layout.low) / 5
    q = (middle + spread * torch.randn(ROWS, COLUMNS)).round().clamp(layout.low, layout.high)
    return replace_values(random_blocks(kind), kind, q)


def unit() -> Tensor:
    return linalg.normalise(torch.randn(ROWS))


def share(direction: Tensor, weight: Tensor, before: Tensor) -> float:
    return float((direction @ weight).norm() / (direction @ before).norm())


@pytest.mark.parametrize("kind", LAYOUTS)
def test_blocks_come_apart_as_the_library_reads_them(kind: str) -> None:
    raw, layout = random_blocks(kind), LAYOUTS[kind]
    blocks = unpack_blocks(raw, kind)
    wanted = torch.from_numpy(dequantize(raw, GGMLQuantizationType[kind]))
    torch.testing.assert_close(blocks.scale * blocks.q + blocks.offset, wanted, rtol=1e-5, atol=1e-6)
    assert (int(blocks.q.min()), int(blocks.q.max())) == (layout.low, layout.high)
    assert np.array_equal(replace_values(raw, kind, blocks.q), raw)
    # Other numbers: what was asked for is read, and scales stay.
    other = unpack_blocks(replace_values(raw, kind, blocks.q.flip(1)), kind)
    assert torch.equal(other.q, blocks.q.flip(1))
    assert torch.equal(other.scale, blocks.scale)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_removed_direction_stays_away(kind: str) -> None:
    """Rounding to the nearest, with the same scales, puts much of it back in every type under 8
    bits.
    """
    raw, direction = stored_matrix(kind), unit()
    old = dequantize_blocks(raw, kind)
    new = linalg.edit_matrix(old, direction[None], torch.ones(1))
    stored = requantize_blocks(raw, kind, old, new, "output")
    assert stored.type == kind
    left = share(direction, dequantize_blocks(stored.raw, kind), old)
    assert left == pytest.approx((stored.lost / stored.change) ** 0.5, rel=1e-3)
    # The scales of random k-quants differ by far more than those of real ones.
    assert left < (0.02 if kind in CLASSIC else 0.1)
    assert (stored.error / stored.wanted) ** 0.5 < 1.3 * rounding_of(raw, kind)
    blocks, layout = unpack_blocks(raw, kind), LAYOUTS[kind]
    q = (
        ((new - blocks.offset) / torch.where(blocks.scale == 0, 1.0, blocks.scale))
        .round()
        .clamp(layout.low, layout.high)
    )
    nearest = share(direction, dequantize_blocks(replace_values(raw, kind, q), kind), old)
    assert nearest > 4 * left


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q6_K"])
def test_rows_of_an_embedding_are_vectors_too(kind: str) -> None:
    raw = stored_matrix(kind)
    old, direction = dequantize_blocks(raw, kind), linalg.normalise(torch.randn(COLUMNS))
    new = linalg.edit_rows(old, direction[None], torch.ones(1))
    stored = requantize_blocks(raw, kind, old, new, "input")
    assert stored.type == kind
    assert float((dequantize_blocks(stored.raw, kind) @ direction).norm() / (old @ direction).norm()) < 0.02


@pytest.mark.parametrize("kind", [*LAYOUTS, "F32", "F16", "BF16"])
def test_vectors_that_do_not_move_keep_their_bytes(kind: str) -> None:
    raw = stored_matrix(kind) if kind in LAYOUTS else quantize_blocks(torch.randn(ROWS, COLUMNS), kind)
    old = dequantize_blocks(raw, kind)
    assert np.array_equal(requantize_blocks(raw, kind, old, old.clone(), "output").raw, raw)
    new = old.clone()
    new[:, 256:] = linalg.edit_matrix(old[:, 256:], unit()[None], torch.ones(1))
    made = requantize_blocks(raw, kind, old, new, "output").raw
    half = raw.shape[1] // 2
    assert np.array_equal(made[:, :half], raw[:, :half])
    assert not np.array_equal(made[:, half:], raw[:, half:])


@pytest.mark.parametrize("kind", CLASSIC)
def test_a_strong_edit_gets_new_scales(kind: str) -> None:
    raw = stored_matrix(kind)
    old = dequantize_blocks(raw, kind)
    new = linalg.edit_matrix(old, unit()[None], torch.tensor([-8.0]))
    stored = requantize_blocks(raw, kind, old, new, "output")
    assert stored.type == kind
    assert (stored.error / stored.wanted) ** 0.5 < 1.5 * rounding_of(stored.raw, kind)


def test_values_that_stay_in_a_block_with_new_scales_stay() -> None:
    """One row leaves the range of its blocks; the other values there are rounded again, to what
    they were.
    """
    raw = quantize_blocks(torch.randn(ROWS, COLUMNS), "Q4_1")
    old = dequantize_blocks(raw, "Q4_1")
    new = old.clone()
    new[3, ::2] *= 3
    stored = requantize_blocks(raw, "Q4_1", old, new, "output")
    step = float(unpack_blocks(stored.raw, "Q4_1").scale[3].max())
    assert float((dequantize_blocks(stored.raw, "Q4_1") - new)[3, 1::2].abs().max()) <= step / 2 * 1.01
    assert np.array_equal(np.delete(stored.raw, 3, 0), np.delete(raw, 3, 0))


def test_what_a_type_cannot_hold_goes_to_a_better_one() -> None:
    raw = random_blocks("Q4_K")
    old = dequantize_blocks(raw, "Q4_K")
    strong = requantize_blocks(
        raw, "Q4_K", old, linalg.edit_matrix(old, unit()[None], torch.tensor([-8.0])), "output"
    )
    odd = random_blocks("IQ4_NL")
    was = dequantize_blocks(odd, "IQ4_NL")
    table = requantize_blocks(
        odd, "IQ4_NL", was, linalg.edit_matrix(was, unit()[None], torch.ones(1)), "output"
    )
    for stored in (strong, table):
        assert stored.type == BETTER
        assert (stored.error / stored.wanted) ** 0.5 < 0.01


def test_the_bound_of_rounding_is_what_rounding_does() -> None:
    weight = torch.randn(ROWS, COLUMNS)
    bounds = []
    for kind in ("Q4_1", "Q5_1", "Q8_0", "BF16", "F16"):
        raw = quantize_blocks(weight, kind)
        bounds.append(rounding_of(raw, kind))
        assert 0.2 < float((dequantize_blocks(raw, kind) - weight).norm() / weight.norm()) / bounds[-1] < 1.1
    assert all(one > other for one, other in pairwise(bounds))
