"""Integer weights of 2, 3, 4 or 8 bits in groups along the input axis, as GPTQ, AWQ and
llm-compressor store them: weight[o, i] = scales[g, o] * (q[i, o] - z[g, o]) with the group g of
input i.

Of a linear layer X there are X.qweight (int32 words), X.qzeros, X.scales [groups, out] and perhaps
X.g_idx, the group of each input; in llm-compressor's layout others, see below.

- GPTQ (Frantar et al., arXiv 2210.17323; layout of AutoGPTQ and GPTQModel,
  https://github.com/ModelCloud/GPTQModel): qweight [in * bits / 32, out] and qzeros [groups, out *
  bits / 32] are strings of bits, lowest first, down the inputs and along the outputs. The format
  `gptq` stores z - 1, with z from 1 to 2^bits; `gptq_v2` stores z.
- AWQ (Lin et al., arXiv 2306.00978; layout `gemm` of AutoAWQ,
  https://github.com/casper-hansen/AutoAWQ): qweight [in, out / 8] and qzeros [groups, out / 8]; the
  eight 4-bit numbers of a word are those of outputs 0, 2, 4, 6, 1, 3, 5, 7.
- compressed-tensors, format `pack-quantized` (https://github.com/vllm-project/compressed-tensors):
  X.weight_packed [out, in * bits / 32] and X.weight_zero_point [out * bits / 32, groups] are such
  strings along the inputs and the outputs, of numbers with 2^(bits - 1) added; X.weight_scale [out,
  groups], X.weight_shape, and X.weight_g_idx. Without zero points z is 0.

The product is rounded to the dtype of the scales, as the kernels of all of them do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vectomy.checkpoint.safetensors_header import TensorEntry
from vectomy.core.errors import CheckpointError

__all__ = ["INTEGER_LAYOUTS", "IntegerLayout", "IntegerParts", "count_inputs", "dequantise", "parts_of"]

IntegerLayout = Literal["gptq", "gptq_v2", "awq", "pack-quantized"]
INTEGER_LAYOUTS: tuple[str, ...] = get_args(IntegerLayout)

WORD = 32
BITS = (2, 3, 4, 8)
# The output that each 4-bit number of a word belongs to, from the lowest bits on.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
SCALES = ("F16", "BF16", "F32")


def parts_of(module: str, layout: str) -> IntegerParts:
    """Names of the tensors of a linear layer."""
    if layout == "pack-quantized":
        names = ("weight_packed", "weight_zero_point", "weight_scale", "weight_g_idx", "weight_shape")
    else:
        names = ("qweight", "qzeros", "scales", "g_idx", "")
    return IntegerParts(*(f"{module}.{name}" if name else "" for name in names))


@dataclass(frozen=True)
class IntegerParts:
    """By what they hold, the tensors of a linear layer; of some layouts there is no `shape`, and
    `zeros` and `groups` may be absent from a checkpoint.
    """

    values: str
    zeros: str
    scales: str
    groups: str
    shape: str

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in vars(self).values() if name)


def count_inputs(layout: str, bits: int, entries: Mapping[str, TensorEntry], module: str) -> int | None:
    """The inputs of a layer, from the headers of its tensors; None where these do not fit.

    Args:
        bits: of a number, where the tensors themselves do not say it.
    """
    parts = parts_of(module, layout)
    values, scales = entries.get(parts.values), entries.get(parts.scales)
    zeros, groups = entries.get(parts.zeros), entries.get(parts.groups)
    if values is None or scales is None or any(len(e.shape) != 2 or 0 in e.shape for e in (values, scales)):
        return None
    if values.dtype != "I32" or scales.dtype not in SCALES:
        return None
    if zeros is not None and (zeros.dtype != "I32" or len(zeros.shape) != 2):
        return None
    if layout == "pack-quantized":
        outputs, count = scales.shape
        words, fits = values.shape[1], values.shape[0] == outputs
        fits = fits and (zeros is None or zeros.shape == (-(-outputs * bits // WORD), count))
    else:
        count, outputs = scales.shape
        if zeros is None or zeros.shape[0] != count:
            return None
        bits = zeros.shape[1] * WORD // outputs
        words, fits = values.shape[0], zeros.shape[1] * WORD == outputs * bits
        fits = fits and values.shape[1] == (zeros.shape[1] if layout == "awq" else outputs)
    if not fits or bits not in ((4,) if layout == "awq" else BITS):
        return None
    inputs = words if layout == "awq" else words * WORD // bits
    whole = layout == "awq" or inputs * bits == words * WORD
    if groups is None:
        return inputs if whole and inputs % count == 0 else None
    named = layout != "awq" and groups.dtype in ("I32", "I64") and groups.shape == (inputs,)
    return inputs if whole and named else None


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
    outputs, inputs = shape
    names = parts_of(name.removesuffix(".weight"), layout)
    values, zeros, scales = _read_numbers(layout, shape, names, parts)
    groups = parts.get(names.groups)
    if groups is None:
        groups = torch.arange(inputs) // (inputs // len(scales))
    low, high = groups.aminmax()
    # compressed-tensors writes -1 for a layer without an order of its own.
    if layout == "pack-quantized" and low == high == -1:
        groups = torch.arange(inputs) // (inputs // len(scales))
        low, high = groups.aminmax()
    stored = parts[names.shape].tolist() if names.shape in parts else [*shape]
    fault = None
    if low < 0 or high >= len(scales):
        fault = f"its g_idx names the groups {int(low)} to {int(high)} of {len(scales)}"
    elif not bool(scales.isfinite().all()):
        fault = "scales of NaN or infinity"
    elif stored != [*shape]:
        fault = f"its shape is said to be {stored} and is {[*shape]}"
    if fault is not None:
        raise CheckpointError(f"weight '{name}' is damaged: {fault}; download it again")
    at = groups.long()
    result = torch.empty(outputs, inputs, dtype=scales.dtype)
    # Exact in float32: 9 bits times at most 24; then rounded once.
    step = max(1, (1 << 22) // inputs)
    for first in range(0, outputs, step):
        rows = slice(first, first + step)
        steps = values[:, rows] - zeros[:, rows][at]
        result[rows] = (steps.float() * scales[:, rows].float()[at]).T.to(scales.dtype)
    return result


def _read_numbers(
    layout: str, shape: tuple[int, ...], names: IntegerParts, parts: Mapping[str, Tensor]
) -> tuple[Int[Tensor, "in out"], Int[Tensor, "groups out"], Float[Tensor, "groups out"]]:
    """Numbers, zero points and scales."""
    outputs, inputs = shape
    values, scales = parts[names.values], parts[names.scales]
    if layout == "awq":
        return _unpack_awq(values), _unpack_awq(parts[names.zeros]), scales
    if layout == "pack-quantized":
        bits = values.shape[1] * WORD // inputs
        numbers = _unpack(values, bits)[:, :inputs].T
        if names.zeros in parts:
            # Both have the same number added.
            return numbers, _unpack(parts[names.zeros].T, bits)[:, :outputs], scales.T
        zeros = torch.full((scales.shape[1], outputs), 2 ** (bits - 1), dtype=torch.int32)
        return numbers, zeros, scales.T
    bits = parts[names.zeros].shape[1] * WORD // outputs
    zeros = _unpack(parts[names.zeros], bits)
    return _unpack(values.T, bits).T, zeros + 1 if layout == "gptq" else zeros, scales


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
