"""Decode a stored weight; store an edited one so that unchanged values keep their bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from vectomy.checkpoint.quantization import fp8, mxfp4
from vectomy.checkpoint.quantization.integer_groups import dequantise
from vectomy.checkpoint.quantization.layout import PackedWeight
from vectomy.checkpoint.quantization.rounding import CHUNK, E2M1, Grid, round_keeping_change
from vectomy.core.errors import CheckpointError

__all__ = ["Axis", "Requantized", "decode", "encode", "requantize"]

Axis = Literal["output", "input"]
"""Along which axis of a matrix (output, input) the vectors lie that an edit changes."""


@dataclass(frozen=True)
class Requantized:
    """An edited weight as it is to be stored, and what storing it cost."""

    parts: dict[str, Tensor]
    """By tensor name, in the dtype and shape of the file."""
    error: float
    """|stored - wanted| / |wanted|, Frobenius norms; 0 where nothing is wanted."""
    lost: float
    """Share of the change that is not stored, along the change of each vector: 1 where rounding
    undoes the edit.

    For the removal of one direction r it is |r W'| / |r W|. 0 where nothing changes.
    """


def decode(encoded: PackedWeight, parts: Mapping[str, Tensor]) -> Float[Tensor, "*shape"]:
    """The logical weight, of shape `encoded.shape` with last axes (output, input); float64 if
    stored so, else float32.

    Raises:
        CheckpointError: the parts are not what `locate` saw, or hold NaN or infinite numbers,
            negative scales, or values whose scale is zero.
    """
    if encoded.is_written_plain:
        return dequantise(encoded.encoding, encoded.name, encoded.shape, parts).float()
    values, scales = _parts(encoded, parts)
    if scales is None:
        return (values.double() if values.dtype == torch.float64 else values.float()).reshape(encoded.shape)
    out = torch.empty(len(values), *encoded.shape[-2:])
    for matrix, raw, scale in zip(out, values, scales, strict=True):
        matrix.copy_(_weight(encoded, *_open(encoded, raw, scale)))
    return out.reshape(encoded.shape)


def encode(
    encoded: PackedWeight,
    new: Float[Tensor, "*shape"],
    parts: Mapping[str, Tensor],
    *,
    vectors: Axis = "output",
) -> Requantized:
    """`recode` to values that are there as a whole."""
    if new.shape != encoded.shape:
        raise CheckpointError(
            f"'{encoded.name}' has shape {list(encoded.shape)}, its edited values {list(new.shape)}"
        )
    matrices = iter(new.reshape(math.prod(encoded.shape[:-2]), *encoded.shape[-2:]))
    return requantize(encoded, parts, lambda _: next(matrices), vectors=vectors)


def requantize(
    encoded: PackedWeight,
    parts: Mapping[str, Tensor],
    change: Callable[[Tensor], Tensor],
    *,
    vectors: Axis = "output",
) -> Requantized:
    """The stored form of `change(weight)`, with one matrix (one expert) decoded at a time.

    Values that `change` leaves alone keep their bytes, and scales stay where they still fit. The
    rest is rounded so that the change as a whole survives (rounding.py); plain weights are rounded
    to the nearest, their grid is fine.

    Args:
        change: from a matrix (output, input) to its new values; experts come one after the other,
            and a plain vector (a bias) as it is. It may write into what it gets.
        vectors: "output" for W in y = W x, whose columns write to the stream; "input" for an
            embedding's rows.

    Raises:
        CheckpointError: see `decode`; or the new values are NaN, infinite, or too large for the
            stored dtype.
    """
    if encoded.is_written_plain:
        raise ValueError(f"'{encoded.name}' is written as a plain tensor, not as {encoded.encoding} again")
    values, scales = _parts(encoded, parts)
    cost = _Cost(-2 if vectors == "output" and len(encoded.shape) > 1 else -1)
    if scales is None:
        results = [_recode_plain(encoded, matrix, change, cost) for matrix in values]
        return cost.of({encoded.name: torch.stack(results).reshape(encoded.shape) if results else values})
    new_values, new_scales = values.clone(), scales.clone()
    for index in range(len(values)):
        number, scale = _open(encoded, values[index], scales[index])
        old = _weight(encoded, number, scale)
        new = _check_edited(encoded, change(old.clone()), old)
        changed = _peaks(encoded, new - old) > 0
        if changed.any():
            fitted, renewed = _fit(encoded, new, old, scale, changed, values, scales)
            number = _round(encoded, new, old, number, fitted, renewed, _grid(values), vectors)
            new_values[index] = (
                mxfp4.pack(number) if encoded.encoding == "mxfp4" else fp8.pack(number, values)
            )
            # Scales that stay are copied: bytes that name the same number need not be the same.
            _bits(new_scales)[index][renewed] = _bits(fp8.write_scales(fitted, scales))[renewed]
            scale = fitted
        cost.add(new, _check_finite(encoded, _weight(encoded, number, scale)), old)
    first, second = encoded.parts
    return cost.of({first: new_values.view(parts[first].shape), second: new_scales.view(parts[second].shape)})


def _recode_plain(
    encoded: PackedWeight, matrix: Tensor, change: Callable[[Tensor], Tensor], cost: _Cost
) -> Tensor:
    old = matrix.double() if matrix.dtype == torch.float64 else matrix.float()
    new = _check_edited(encoded, change(old.clone()), old)
    # NaN and negative zeros too keep their bits.
    result = torch.where((new == old) | (new.isnan() & old.isnan()), matrix, new.to(matrix.dtype))
    if bool((result.isinf() & new.isfinite()).any()):
        raise CheckpointError(
            f"edited values of '{encoded.name}' are too large for its {matrix.dtype}; weaken the edit"
        )
    cost.add(new, result.to(new.dtype), old)
    return result


# What a weight consists of


def _parts(encoded: PackedWeight, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Values (matrix, ...) and scales (matrix, down, across) as stored, held against the
    description.
    """
    missing = [name for name in encoded.parts if name not in parts]
    if missing:
        raise CheckpointError(f"weight '{encoded.name}' is stored in '{missing[0]}' too, which was not given")
    values = parts[encoded.parts[0]]
    rest = encoded.shape[-2:]
    if encoded.encoding == "plain":
        if values.shape != encoded.shape or not values.is_floating_point() or values.element_size() < 2:
            raise _damage_error(encoded, f"it is {values.dtype} of shape {list(values.shape)}")
        return values.reshape(math.prod(encoded.shape[:-2]), *rest), None
    scales = parts[encoded.parts[1]]
    kinds: tuple[torch.dtype, ...] = (torch.float8_e4m3fn, torch.float8_e5m2)
    if encoded.encoding == "mxfp4":
        rest, kinds = (
            (encoded.shape[-2], encoded.shape[-1] // encoded.block[1], encoded.block[1] // 2),
            (torch.uint8,),
        )
    shape = (*encoded.shape[:-2], *rest)
    count = math.prod(encoded.shape[:-2]) * math.prod(encoded.grid)
    if values.shape != shape or values.dtype not in kinds or scales.numel() != count:
        raise _damage_error(
            encoded,
            f"it has values {values.dtype} {list(values.shape)} with {scales.numel()} scales, not "
            f"{list(shape)} with {count}",
        )
    return values.reshape(-1, *rest), scales.reshape(-1, *encoded.grid)


def _open(encoded: PackedWeight, values: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """One matrix: its values in units of their scale (rows, columns), and the scales (down,
    across), in float32.
    """
    number = mxfp4.unpack(values) if encoded.encoding == "mxfp4" else fp8.unpack(values)
    scale = fp8.read_scales(scales)
    if not bool((scale.isfinite() & (scale >= 0)).all() & number.isfinite().all()):
        raise _damage_error(encoded, "NaN, infinite or negative numbers among its values or scales")
    if bool((scale == 0).any()) and bool(((scale == 0) & (_peaks(encoded, number) > 0)).any()):
        raise _damage_error(encoded, "values whose scale is zero")
    return number, scale


def _weight(encoded: PackedWeight, number: Tensor, scale: Tensor) -> Tensor:
    return _check_finite(encoded, number * _spread(encoded, scale))


def _spread(encoded: PackedWeight, scale: Tensor) -> Tensor:
    """Scales (down, across) as one a weight (rows, columns), as a view where a row or a matrix
    shares one.
    """
    rows, columns = encoded.shape[-2:]
    for axis, size in ((0, rows), (1, columns)):
        if scale.shape[axis] == 1:
            scale = scale.expand(*((size, -1) if axis == 0 else (-1, size)))
        else:
            scale = scale.repeat_interleave(encoded.block[axis], axis).narrow(axis, 0, size)
    return scale


def _peaks(encoded: PackedWeight, matrix: Tensor) -> Tensor:
    """The largest absolute value of each block (down, across)."""
    (down, across), (tall, wide), (rows, columns) = encoded.grid, encoded.block, encoded.shape[-2:]
    if (down * tall, across * wide) != (rows, columns):
        matrix = pad(matrix, (0, across * wide - columns, 0, down * tall - rows))
    blocks = matrix.reshape(down, tall, across, wide)
    return torch.maximum(blocks.amax((1, 3)), -blocks.amin((1, 3)))


def _bits(scales: Tensor) -> Tensor:
    """A view that can be indexed; torch does not do so for every dtype of one byte."""
    return scales.view(torch.uint8) if scales.element_size() == 1 else scales


# Rounding


def _grid(values: Tensor) -> Grid:
    return E2M1 if values.dtype == torch.uint8 else fp8.grid_of(values)


def _fit(
    encoded: PackedWeight,
    new: Tensor,
    old: Tensor,
    scale: Tensor,
    changed: Tensor,
    values: Tensor,
    scales: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scales for the new values, and which of them are new ones."""
    peaks = _peaks(encoded, new)
    if encoded.encoding == "mxfp4":
        return mxfp4.new_scales(scale, peaks, changed, new)
    return fp8.new_scales(scale, peaks, _peaks(encoded, old), _grid(values), scales)


def _round(
    encoded: PackedWeight,
    new: Tensor,
    old: Tensor,
    number: Tensor,
    scale: Tensor,
    renewed: Tensor,
    grid: Grid,
    vectors: Axis,
) -> Tensor:
    """The new values in units of their scale, a chunk of vectors at a time."""
    spread = _spread(encoded, torch.where(scale > 0, scale, 1.0))
    moved = _spread(encoded, renewed)
    out = torch.empty_like(new)
    flip = vectors == "input"
    new, old, number, spread, moved, out = (
        t.T if flip else t for t in (new, old, number, spread, moved, out)
    )
    step = max(1, CHUNK // len(new))
    for start in range(0, new.shape[1], step):
        want, was, before, by, again, into = (
            t[:, start : start + step] for t in (new, old, number, spread, moved, out)
        )
        rounded = round_keeping_change(want, was, by, grid)
        # Values that did not move keep their bits, negative zeros too.
        into.copy_(torch.where((want == was) & ~again, before, rounded))
    return out.T if flip else out


def _check_edited(encoded: PackedWeight, new: Tensor, old: Tensor) -> Tensor:
    if new.shape != old.shape:
        raise CheckpointError(
            f"the edit turns '{encoded.name}' of shape {list(old.shape)} into {list(new.shape)}"
        )
    new = new.to(old.dtype)
    if bool((~new.isfinite() & old.isfinite()).any()):
        raise CheckpointError(f"the edit gives '{encoded.name}' NaN or infinite values; weaken it")
    return new


def _check_finite(encoded: PackedWeight, weight: Tensor) -> Tensor:
    if not bool(weight.isfinite().all()):
        raise _damage_error(encoded, "values times their scale exceed float32")
    return weight


def _damage_error(encoded: PackedWeight, what: str) -> CheckpointError:
    return CheckpointError(
        f"weight '{encoded.name}' ({encoded.encoding}) is damaged: {what}; download it again"
    )


@dataclass
class _Cost:
    """Squared norms, summed over matrices."""

    dim: int
    error: float = 0.0
    wanted: float = 0.0
    lost: float = 0.0
    change: float = 0.0

    def add(self, new: Tensor, result: Tensor, old: Tensor) -> None:
        new, result, old = (tensor.nan_to_num(0.0, 0.0, 0.0) for tensor in (new, result, old))
        error, change = result - new, new - old
        along, whole = (error * change).sum(self.dim), change.square().sum(self.dim)
        self.error += float(error.square().sum(dtype=torch.float64))
        self.wanted += float(new.square().sum(dtype=torch.float64))
        self.change += float(whole.sum(dtype=torch.float64))
        self.lost += float(torch.where(whole > 0, along.square() / whole, 0.0).sum(dtype=torch.float64))

    def of(self, parts: dict[str, Tensor]) -> Requantized:
        def share(part: float, whole: float) -> float:
            return math.sqrt(part / whole) if whole > 0 else 0.0

        return Requantized(parts, share(self.error, self.wanted), share(self.lost, self.change))
