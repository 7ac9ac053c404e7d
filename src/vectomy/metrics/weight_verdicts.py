"""Whether each stored weight carries an Edit: against the base, or by what is left of directions.

Against the base a weight has to be what a bake makes of the base's. Without it only a removal of
strength 1 shows: whatever the base was, nothing is left along the direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Architecture, TensorRef, Writer
from vectomy.checkpoint import Change, Checkpoint, architecture_in
from vectomy.checkpoint.quantization import decode, locate
from vectomy.checkpoint.reader import SAMPLE, STORED_DTYPES, read_stored
from vectomy.core import linalg
from vectomy.core.errors import CheckpointError
from vectomy.edits.edit import Edit, Operation
from vectomy.edits.export.bake import Baking, decode_made
from vectomy.edits.operation import fold_operation

__all__ = ["Carries", "WeightVerdict", "changes_samples", "judge_weights", "non_finite_tensors"]

Carries = Literal["carried", "not_carried", "unknown", "unchanged"]
"""`unchanged`: the Edit changes no stored value of this tensor, so that nothing could show it."""

# A writer with less of the directions than this share of what a random one has lacks them. Rounding
# to bfloat16 leaves some 0.002, to fp8 0.03; an unedited writer has about 1.
GONE = 0.15
# The share of a change that may be missing from stored values, beside their rounding.
MISSED = 0.05
# How far stored values may be from what the edit makes of the base's, in units of the stored
# format's rounding.
ROUNDINGS = 4
ROUNDING = {"F64": 1e-12, "F32": 1e-6, "F16": 2**-11, "BF16": 2**-8}
PACKED_ROUNDING = 0.2
# How far a folded strength may be from 1.
FULL = 1e-5
# Bytes of a tensor that are in memory while it is searched for NaN.
BLOCK = 1 << 26

NEEDS_BASE = "partial strengths can only be verified against the base (--base)"
ROW_NEEDS_BASE = "norm mode row can only be verified against the base (--base)"
ADDITION_NEEDS_BASE = "an added vector can only be verified against the base (--base)"


@dataclass(frozen=True)
class WeightVerdict:
    """Whether one tensor carries the edit, and the reason where it does not or cannot be told."""

    name: str
    carries: Carries
    reason: str = ""


@dataclass
class _NamedTensor:
    """A tensor that an Edit names: the directions that operations remove from it, and what they
    add.
    """

    ref: TensorRef
    operations: list[tuple[Tensor, Tensor, Operation]] = field(default_factory=list)
    """Directions in front of norms, their strengths, and the operation."""

    def directions(self) -> Float[Tensor, "k d_model"]:
        """Orthonormal rows that span every change by removal or addition."""
        rows = [basis.float() for basis, _, _ in self.operations]
        rows += [
            linalg.normalise(op.addition[None].float())
            for _, _, op in self.operations
            if op.addition is not None
        ]
        stacked = torch.cat(rows)
        _, sizes, axes = torch.linalg.svd(stacked, full_matrices=False)
        return axes[sizes > 1e-4 * sizes.max()]


def judge_weights(
    checkpoint: Checkpoint, edit: Edit, architecture: Architecture, base: Checkpoint | None = None
) -> list[WeightVerdict]:
    """A verdict on every tensor that the Edit changes.

    Args:
        architecture: of `checkpoint`.
        base: the checkpoint that the Edit was made for. Without it partial strengths are `unknown`.
    """
    if base is None:
        return [
            _judge_alone(checkpoint, architecture, tensor, weight)
            for tensor, weight in _named_tensors(checkpoint, edit, architecture)
        ]
    own = architecture_in(base)
    baking = Baking(base, own)
    for writer, operation in edit.writers(own):
        baking.add(writer, operation)
    named = {tensor.ref.name: tensor for tensor, _ in _named_tensors(base, edit, own)}
    return [
        _judge_against_base(checkpoint, architecture, base, named[name], change)
        for name, change in baking.named_changes()
        if name in named
    ]


def _named_tensors(
    checkpoint: Checkpoint, edit: Edit, arch: Architecture
) -> Iterator[tuple[_NamedTensor, bool]]:
    """The tensors that an Edit changes, and whether each is a weight (else a bias)."""
    tensors: dict[str, tuple[_NamedTensor, bool]] = {}

    def add(ref: TensorRef, weight: bool, basis: Tensor, strengths: Tensor, operation: Operation) -> None:
        tensor, _ = tensors.setdefault(ref.name, (_NamedTensor(ref), weight))
        tensor.operations.append((basis, strengths, operation))

    for writer, operation in edit.writers(arch):
        basis, strengths = fold_operation(checkpoint, writer, operation)
        if operation.strengths.any():
            for ref in _of_expert(writer.weights, operation):
                add(ref, True, basis, strengths, operation)
        for ref in _of_expert(_biases(writer, operation, arch), operation):
            add(ref, False, basis, strengths, operation)
        norm = writer.biased_norm
        if norm is not None and operation.strengths.any():
            add(TensorRef(norm.bias, 0), False, operation.basis, operation.strengths, operation)
    yield from tensors.values()


def _of_expert(refs: Sequence[TensorRef], operation: Operation) -> list[TensorRef]:
    return [ref for ref in refs if ref.expert is None or operation.expert in (None, ref.expert)]


def _biases(writer: Writer, operation: Operation, arch: Architecture) -> Sequence[TensorRef]:
    """The writer's biases, else the bias that a bake makes for an added vector."""
    if operation.addition is not None and not writer.biases:
        return [TensorRef(f"{arch.stored(writer.module)}.bias", 0)]
    one_for_all = operation.expert is not None
    return [ref for ref in writer.biases if not (one_for_all and len(arch.shapes[ref.name]) == 1)]


# Against the base


def _judge_against_base(
    checkpoint: Checkpoint, arch: Architecture, base: Checkpoint, tensor: _NamedTensor, change: Change
) -> WeightVerdict:
    """Stored values have to be the edited ones along the directions, and across them as well."""
    name = tensor.ref.name
    if name not in arch.shapes:
        return WeightVerdict(name, "not_carried", "is not in the checkpoint")
    try:
        stored = _read_logical(checkpoint, name)
    except CheckpointError as error:
        return WeightVerdict(name, "not_carried", f"cannot be read: {error}")
    new = change.make_from(base)
    if name in base.tensors or change.tensors != (name,) or change.reads:
        made, before = decode_made(base, name, new), _read_logical(base, name)
    else:
        made = new[name].float()
        before = torch.zeros_like(made)
    if stored.shape != made.shape:
        return WeightVerdict(
            name, "not_carried", f"has shape {list(stored.shape)}, the base's {list(made.shape)}"
        )
    for values, whose in ((stored, "holds"), (made, "the edited base's holds")):
        if (count := _count_non_finite(values)) > 0:
            reason = f"{whose} NaN or infinite values ({count} of {values.numel()})"
            return WeightVerdict(name, "not_carried", reason)
    moved = not torch.equal(made, before)
    if torch.equal(stored, made):
        return WeightVerdict(name, "carried" if moved else "unchanged")
    if torch.equal(stored, before):
        return WeightVerdict(name, "not_carried", "as in the base: the edit is not in it")
    axis = locate(checkpoint, name).stream_axis(tensor.ref.axis)
    rounding, basis = _rounding(checkpoint, name), tensor.directions()
    off = float((stored - made).norm() / made.norm().clamp_min(torch.finfo(torch.float32).tiny))
    if moved:
        carries, reason = _compare_along(stored, before, made, axis, basis, rounding)
    else:
        carries, reason = "unchanged", ""
    if carries != "not_carried" and off > ROUNDINGS * rounding:
        carries = "not_carried"
        reason = f"differs from the edited base by {off:.2g} of its length, in more than the edit"
    return WeightVerdict(name, carries, reason)


def _compare_along(
    stored: Tensor, before: Tensor, made: Tensor, axis: int, basis: Tensor, rounding: float
) -> tuple[Carries, str]:
    wanted, missed = (
        float((value.movedim(axis, -1) @ basis.T).norm()) for value in (made - before, made - stored)
    )
    # Rounding errors are spread over all axes of the stream; so much of them lies along the basis.
    noise = rounding * float(made.norm()) * (len(basis) / basis.shape[-1]) ** 0.5
    if missed > MISSED * wanted + noise:
        share = 1 - missed / wanted if wanted > noise else 0.0
        return "not_carried", f"carries {share:.2g} of what the edit takes along its directions"
    if wanted <= 2 * noise:
        return "unknown", "the edit changes it by less than its format's rounding"
    return "carried", ""


def _rounding(checkpoint: Checkpoint, name: str) -> float:
    entry = checkpoint.tensors.get(name)
    return ROUNDING.get(entry.dtype, PACKED_ROUNDING) if entry else PACKED_ROUNDING


# Without the base


def _judge_alone(
    checkpoint: Checkpoint, arch: Architecture, tensor: _NamedTensor, weight: bool
) -> WeightVerdict:
    """Nothing may be left along directions of strength 1; of others nothing can be told."""
    name = tensor.ref.name
    if name not in arch.shapes:
        reason = "is not in the checkpoint" if weight else "is not there to hold the added vector"
        return WeightVerdict(name, "not_carried", reason)
    try:
        values = _read_logical(checkpoint, name)
    except CheckpointError as error:
        return WeightVerdict(name, "not_carried", f"cannot be read: {error}")
    if (count := _count_non_finite(values)) > 0:
        reason = f"holds NaN or infinite values ({count} of {values.numel()})"
        return WeightVerdict(name, "not_carried", reason)
    axis = locate(checkpoint, name).stream_axis(tensor.ref.axis)
    results = [_judge_removal(values, axis, tensor, operation, weight) for operation in tensor.operations]
    order: tuple[Carries, ...] = ("not_carried", "unknown", "carried", "unchanged")
    carries, reason = min(results, key=lambda result: order.index(result[0]))
    return WeightVerdict(name, carries, reason)


def _judge_removal(
    values: Tensor,
    axis: int,
    tensor: _NamedTensor,
    removal: tuple[Tensor, Tensor, Operation],
    weight: bool,
) -> tuple[Carries, str]:
    basis, strengths, operation = removal
    if operation.expert is not None and tensor.ref.expert is None:
        values, axis = values[operation.expert], axis - 1
    addition = None if weight or operation.addition is None else operation.addition.float()
    if addition is not None:
        off = float((values - addition).norm())
        if off <= 2 * ROUNDING["BF16"] * float(addition.norm()):
            # A bias that is the vector itself is no accident.
            return "carried", ""
        if not strengths.any():
            return "unknown", ADDITION_NEEDS_BASE
    if operation.norm == "row" and weight:
        return "unknown", ROW_NEEDS_BASE
    vectors = values.movedim(axis, -1)
    length = float(vectors.norm())
    if not length or not len(basis):
        return "unchanged", ""
    full = basis[(strengths - 1).abs() <= FULL]
    if len(full):
        left = vectors if addition is None else vectors - addition
        share = float((left @ full.T).norm()) / length * (vectors.shape[-1] / len(full)) ** 0.5
        if not share < GONE:
            reason = f"still writes along the directions, {share:.2g} times as much as a random writer would"
            return "not_carried", reason
    if addition is not None:
        return "unknown", ADDITION_NEEDS_BASE
    return ("carried", "") if len(full) == len(basis) else ("unknown", NEEDS_BASE)


def changes_samples(checkpoint: Checkpoint, edit: Edit) -> bool:
    """Whether the Edit, applied to this very checkpoint, changes bytes that its fingerprint reads.

    Where it does, a checkpoint with the base's fingerprint is the base, unedited.
    """
    arch = architecture_in(checkpoint)
    baking = Baking(checkpoint, arch)
    for writer, operation in edit.writers(arch):
        baking.add(writer, operation)
    for _, change in baking.named_changes():
        if change.reads:
            # A plain tensor takes the place of those that it is made from.
            return True
        parts = [part for part in change.tensors if part in checkpoint.tensors]
        if len(parts) < len(change.tensors):
            continue
        new = change.make({part: read_stored(checkpoint, part) for part in parts})
        if any(_samples(new[part]) != _samples(read_stored(checkpoint, part)) for part in parts):
            return True
    return False


def _samples(values: Tensor) -> list[bytes]:
    """The bytes of a tensor that `fingerprint` reads."""
    data = values.contiguous().flatten().view(torch.uint8)
    starts = {0, max(0, len(data) // 2 - SAMPLE // 2), max(0, len(data) - SAMPLE)}
    return [data[start : start + SAMPLE].numpy().tobytes() for start in sorted(starts)]


# Values


def non_finite_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, int]]:
    """The tensors of a checkpoint with NaN or infinite values, and how many."""
    for name, entry in checkpoint.tensors.items():
        dtype = STORED_DTYPES.get(entry.dtype)
        if dtype is None or not dtype.is_floating_point:
            continue
        rows = entry.shape[0] if entry.shape else 0
        step = max(1, BLOCK * rows // max(1, entry.end - entry.start)) if rows else 1
        blocks = (
            [read_stored(checkpoint, name, first, min(first + step, rows)) for first in range(0, rows, step)]
            if rows
            else [read_stored(checkpoint, name)]
        )
        count = sum(map(_count_non_finite, blocks))
        if count:
            yield name, count


def _count_non_finite(values: Tensor) -> int:
    work = values if values.element_size() > 1 else values.float()
    return int((~torch.isfinite(work)).sum())


def _read_logical(checkpoint: Checkpoint, name: str) -> Tensor:
    encoded = locate(checkpoint, name)
    return decode(encoded, {part: read_stored(checkpoint, part) for part in encoded.parts}).float()
