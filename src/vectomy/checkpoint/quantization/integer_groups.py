"""Integer weights of 2, 3, 4 or 8 bits in groups along the input axis, as GPTQ and AWQ store them:
weight[o, i] = scales[g, o] * (q[i, o] - z[g, o]) with the group g of input i.

Of a linear layer X there are X.qweight (int32 words), X.qzeros, X.scales [groups, out] and perhaps
X.g_idx, the group of each input.

- GPTQ (Frantar et al., arXiv 2210.17323; layout of AutoGPTQ and GPTQModel,
  https://github.com/ModelCloud/GPTQModel): qweight [in * bits / 32, out] and qzeros [groups, out *
  bits / 32] are strings of bits, lowest first, down the inputs and along the outputs. The format
  `gptq` stores z - 1, with z from 1 to 2^bits; `gptq_v2` stores z.
- AWQ (Lin et al., arXiv 2306.00978; layout `gemm` of AutoAWQ,
  https://github.com/casper-hansen/AutoAWQ): qweight [in, out / 8] and qzeros [groups, out / 8]; the
  eight 4-bit numbers of a word are those of outputs 0, 2, 4, 6, 1, 3, 5, 7.

The product is rounded to the dtype of the scales, as the kernels of both do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vectomy.checkpoint.safetensors_header import TensorEntry
from vectomy.core.errors import CheckpointError

__all__ = ["INTEGER_LAYOUTS", "IntegerLayout", "count_inputs", "dequantise", "parts_of"]

IntegerLayout = Literal["gptq", "gptq_v2", "awq"]
INTEGER_LAYOUTS: tuple[str, ...] = get_args(IntegerLayout)

WORD = 32
BITS = (2, 3, 4, 8)
# The output that each 4-bit number of a word belongs to, from the lowest bits on.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
SCALES = ("F16", "BF16", "F32")


def parts_of(module: str) -> tuple[str, ...]:
    """Names of the tensors of a linear layer; the last one may be absent."""
    return tuple(f"{module}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx"))


def count_inputs(
    layout: str, values: TensorEntry, zeros: TensorEntry, scales: TensorEntry, groups: TensorEntry | None
) -> int | None:
    """The inputs of a layer, from the headers of its tensors; None where these do not fit."""
    sizes = (values.shape, zeros.shape, scales.shape)
    if any(len(shape) != 2 or 0 in shape for shape in sizes):
        return None
    words, width = zeros.shape[1] * WORD, scales.shape[1]
    bits = words // width
    inputs = values.shape[0] if layout == "awq" else values.shape[0] * WORD // bits if bits else 0
    fits = (
        values.dtype == zeros.dtype == "I32"
        and scales.dtype in SCALES
        and words == bits * width
        and bits in ((4,) if layout == "awq" else BITS)
        and zeros.shape[0] == scales.shape[0]
        and values.shape[1] == (zeros.shape[1] if layout == "awq" else width)
        and (layout == "awq" or inputs * bits == values.shape[0] * WORD)
        and (groups is None or (layout != "awq" and groups.dtype == "I32" and groups.shape == (inputs,)))
        and (groups is not None or inputs % scales.shape[0] == 0)
    )
    return inputs if fits else None


def dequantise(
    layout: str, name: str, shape: tuple[int, ...], parts: Mapping[str, Tensor]
) -> Float[Tensor, "out in"]:
    """The weight of a layer, in the dtype of its scales.

    Args:
        name: of the weight, X.weight.
        shape: (out, in).

    Raises:
        CheckpointError: a group that is not there, or scales that are NaN or infinite.
    """
    packed, packed_zeros, scales, groups = (parts.get(n) for n in parts_of(name.removesuffix(".weight")))
    if packed is None or packed_zeros is None or scales is None:
        raise CheckpointError(f"weight '{name}' is stored in several tensors, of which some were not given")
    outputs, inputs = shape
    if layout == "awq":
        values, zeros = _unpack_awq(packed), _unpack_awq(packed_zeros)
    else:
        bits = packed_zeros.shape[1] * WORD // outputs
        values = _unpack(packed.T, bits).T
        zeros = _unpack(packed_zeros, bits)
        if layout == "gptq":
            zeros = zeros + 1
    if groups is None:
        groups = torch.arange(inputs) // (inputs // len(scales))
    low, high = groups.aminmax()
    if low < 0 or high >= len(scales):
        raise CheckpointError(
            f"weight '{name}' is damaged: its g_idx names the groups {int(low)} to {int(high)} of "
            f"{len(scales)}; download it again"
        )
    if not bool(scales.isfinite().all()):
        raise CheckpointError(f"weight '{name}' is damaged: scales of NaN or infinity; download it again")
    at = groups.long()
    result = torch.empty(outputs, inputs, dtype=scales.dtype)
    # Exact in float32: 9 bits times at most 24; then rounded once.
    step = max(1, (1 << 22) // inputs)
    for first in range(0, outputs, step):
        rows = slice(first, first + step)
        steps = values[:, rows] - zeros[:, rows][at]
        result[rows] = (steps.float() * scales[:, rows].float()[at]).T.to(scales.dtype)
    return result


def _unpack(words: Int[Tensor, "row word"], bits: int) -> Int[Tensor, "row value"]:
    """Numbers of so many bits from rows of words, lowest bits first; they may lie across words."""
    count = words.shape[1] * WORD // bits
    start = torch.arange(count) * bits
    word, shift = start // WORD, start % WORD
    # As positive numbers of 64 bits, with the next word above each.
    wide = words.long() & 0xFFFFFFFF
    if WORD % bits:
        above = torch.cat((wide[:, 1:], torch.zeros_like(wide[:, :1])), dim=1)
        wide = wide | (above << WORD)
    return ((wide[:, word] >> shift) & (2**bits - 1)).to(torch.int32)


def _unpack_awq(words: Int[Tensor, "row word"]) -> Int[Tensor, "row value"]:
    plain = _unpack(words, 4).reshape(len(words), -1, len(AWQ_ORDER))
    result = torch.empty_like(plain)
    result[:, :, list(AWQ_ORDER)] = plain
    return result.reshape(len(words), math.prod(plain.shape[1:]))
