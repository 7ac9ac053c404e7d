"""The tensors that do not write to the stream: which differ, and which of those an edit of the rest
accounts for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vectomy.checkpoint import read_stored
from vectomy.checkpoint.quantization import decode
from vectomy.comparison.matrix_pairs import TILE, OpenedModel, finite, step

__all__ = ["Distance", "cast_alone", "distance", "distances_to", "head_of", "logical_values"]

# Of a step, what two roundings of one number may lie apart.
CAST = 0.6


@dataclass(frozen=True)
class Distance:
    """|B - A| and what rounding makes of it, relative to |A|."""

    relative: float
    rounding: float
    cast: bool = False
    """The difference is nothing but rounding of one to the other's format."""

    @property
    def none(self) -> bool:
        return self.relative == 0.0


def logical_values(model: OpenedModel, name: str) -> Iterator[Tensor]:
    """A tensor in blocks that two checkpoints cut alike, however each stores it; float32 (float64
    for float64).
    """
    encoded = model.encoded(name)
    experts = len(encoded.shape) == 3
    if encoded.encoding == "plain" and not experts:
        rows = encoded.shape[0] if encoded.shape else 1
        size = 1
        for extent in encoded.shape[1:]:
            size *= extent
        many = max(1, TILE // max(1, size)) if encoded.shape else 1
        for start in range(0, rows, many):
            span = (start, min(start + many, rows)) if encoded.shape else (0, None)
            yield _wide(read_stored(model.checkpoint, name, *span))
        return
    for number in range(encoded.shape[0]) if experts else [None]:
        span = (0, None) if number is None else (number, number + 1)
        parts = {part: read_stored(model.checkpoint, part, *span) for part in encoded.parts}
        value = decode(encoded if number is None else encoded.experts(1), parts)
        # As it is loaded.
        yield _wide(value.mT if experts and encoded.is_transposed else value)


def _wide(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value.double()
    return value.to(torch.promote_types(value.dtype, torch.float32))


def distance(model_a: OpenedModel, model_b: OpenedModel, name: str, its_name: str | None = None) -> Distance:
    """Raises CheckpointError for NaN or infinite values among what differs."""
    its_name = its_name or name
    same = change = size = noise = 0.0
    fractions = [_fraction(model, tensor) for model, tensor in ((model_a, name), (model_b, its_name))]
    fraction = min(fractions)
    cast = fractions[0] != fractions[1]
    for a, b in zip(logical_values(model_a, name), logical_values(model_b, its_name), strict=True):
        if torch.equal(a, b):
            same += float(a.nan_to_num().square().sum(dtype=torch.float64))
            continue
        e = b - a
        change += float(e.square().sum(dtype=torch.float64))
        size += float(a.square().sum(dtype=torch.float64))
        floats = (torch.where(a.abs() > b.abs(), a, b)).float()
        typical = float(floats.square().mean().sqrt())
        noise += float(step(floats, fraction, typical).square().sum(dtype=torch.float64)) / 12
        cast = cast and cast_alone(a, b, fraction, typical)
    if change == 0.0:
        finite(change, name, model_a, model_b)
        return Distance(0.0, 0.0)
    length = finite(size + same, name, model_a, model_b) ** 0.5 or 1.0
    return Distance(finite(change, name, model_a, model_b) ** 0.5 / length, noise**0.5 / length, cast)


def cast_alone(a: Tensor, b: Tensor, fraction: int, typical: float) -> bool:
    """Whether rounding to the coarser of two precisions is all there is: half a step, and a little
    for the finer one's.
    """
    larger = torch.where(a.abs() > b.abs(), a, b).float()
    return bool(((b - a).abs() <= CAST * step(larger, fraction, typical)).all())


def distances_to(
    model_a: OpenedModel, model_b: OpenedModel, name: str, wanted: Tensor
) -> tuple[float, float, float]:
    """How far B's tensor is from wanted values and from A's, and what rounding makes of it;
    lengths.
    """
    before, after = (
        torch.cat([block.flatten() for block in logical_values(model, name)]) for model in (model_a, model_b)
    )
    target = wanted.flatten().to(after)
    steps = step(after.float(), _fraction(model_b, name), float(target.square().mean().sqrt()))
    return float((after - target).norm()), float((after - before).norm()), float(steps.norm()) / 12**0.5


def _fraction(model: OpenedModel, name: str) -> int:
    return model.encoded(name).fraction_bits(model.checkpoint)


def head_of(model: OpenedModel) -> str:
    """The tensor that holds the head's weight: its own, or the embedding that it is tied to."""
    architecture = model.architecture
    stored = architecture.head in architecture.shapes
    if stored and not architecture.tied:
        return architecture.head
    return architecture.writer("embedding", None).weights[0].name
