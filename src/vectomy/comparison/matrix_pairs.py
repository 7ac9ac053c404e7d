"""Two checkpoints side by side: which tensors they share, and each matrix that writes to the stream
in both.

A matrix is read as the vectors of the stream that it holds, block by block: the columns of a
weight, the rows of an embedding. One pair of tensors is in memory at a time, as it is stored, and a
block of both in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Architecture, PostNorm, Writer, check_covered
from vectomy.architecture.norms import norm_gain
from vectomy.checkpoint import Checkpoint, architecture_in, read_stored
from vectomy.checkpoint.quantization import PackedWeight, decode, locate
from vectomy.checkpoint.reader import TORCH_DTYPES
from vectomy.core.errors import ArchitectureError, CheckpointError
from vectomy.core.types import Vector

__all__ = [
    "MatrixPair",
    "OpenedModel",
    "StoredMatrix",
    "finite",
    "gain_of",
    "matrix_pairs",
    "open_pair",
    "step",
]

# Elements of a block: small enough for the temporaries of a fit to stay in a processor's cache.
TILE = 1 << 20
# Vectors on which directions and strengths are fitted, in pieces of consecutive ones spread over
# the matrix.
SAMPLE, SPREAD = 4096, 32
# A value this much smaller than a matrix's typical one counts as if it were rounded like that, not
# to finer steps.
FINEST = 2.0**-6


@dataclass(frozen=True)
class OpenedModel:
    """An opened checkpoint and what is known of its architecture."""

    name: str
    checkpoint: Checkpoint
    architecture: Architecture

    @classmethod
    def open(cls, source: Checkpoint, name: str) -> OpenedModel:
        architecture = architecture_in(source)
        # What one of two models lacks is a result of their comparison.
        check_covered(architecture, shapes=False)
        return cls(name, source, architecture)

    def encoded(self, name: str) -> PackedWeight:
        return locate(self.checkpoint, name)


def open_pair(a: Checkpoint, b: Checkpoint) -> tuple[OpenedModel, OpenedModel]:
    """Raises ArchitectureError unless both are of one type and shape; what else opening a
    checkpoint raises.
    """
    model_a, model_b = OpenedModel.open(a, str(a.path)), OpenedModel.open(b, str(b.path))
    for what, mine, its in (
        ("model type", model_a.architecture.model_type, model_b.architecture.model_type),
        ("width", model_a.architecture.d_model, model_b.architecture.d_model),
        ("number of layers", model_a.architecture.n_layers, model_b.architecture.n_layers),
    ):
        if mine != its:
            raise ArchitectureError(
                f"{a.path} and {b.path} are not two versions of one model: the {what} is {mine} and {its}; "
                "compare a model with its own base"
            )
    for name, shape in model_a.architecture.shapes.items():
        its_shape = model_b.architecture.shapes.get(name)
        if its_shape is not None and tuple(its_shape) != tuple(shape):
            raise ArchitectureError(
                f"'{name}' has shape {list(shape)} in {a.path} and {list(its_shape)} in {b.path}; "
                "compare a model with its own base"
            )
    return model_a, model_b


@dataclass
class StoredMatrix:
    """One matrix in one of the two checkpoints."""

    model: OpenedModel
    encoded: PackedWeight
    axis: int
    """Of the stream, in the matrix."""
    expert: int | None
    """Its place on axis 0 of a fused tensor."""
    _held: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, model: OpenedModel, name: str, axis: int, expert: int | None) -> StoredMatrix:
        encoded = model.encoded(name)
        axis = encoded.stream_axis(axis)
        return cls(model, encoded, axis if expert is None else axis - 1, expert)

    @property
    def plain(self) -> torch.dtype | None:
        """The dtype of a matrix that is stored, or written by a bake, as it is."""
        if self.encoded.encoding != "plain" and not self.encoded.is_written_plain:
            return None
        return TORCH_DTYPES[self.model.checkpoint.tensors[self.encoded.written_from].dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.encoded.shape if self.expert is None else self.encoded.shape[1:]

    @property
    def by_rows(self) -> bool:
        """Its vectors are whole rows of the file, so that a block can be read alone."""
        whole = self.expert is None and self.encoded.encoding == "plain"
        return whole and len(self.shape) == 2 and self.axis == 1

    def hold(self) -> None:
        if not self.by_rows:
            self._held = self._matrix()

    def release(self) -> None:
        self._held = None

    def vectors(self, start: int, end: int) -> Float[Tensor, "m d_model"]:
        if self.by_rows:
            rows = read_stored(self.model.checkpoint, self.encoded.parts[0], start, end)
        else:
            assert self._held is not None
            rows = self._held.movedim(self.axis, -1).flatten(0, -2)[start:end]
        return rows.to(torch.promote_types(rows.dtype, torch.float32))

    def _matrix(self) -> Tensor:
        span = (0, None) if self.expert is None else (self.expert, self.expert + 1)
        parts = {part: read_stored(self.model.checkpoint, part, *span) for part in self.encoded.parts}
        encoded = self.encoded if self.expert is None else self.encoded.experts(1)
        # Decoding what is stored as it is would copy it.
        value = parts[encoded.name] if encoded.encoding == "plain" else decode(encoded, parts)
        value = value if self.plain is None else value.to(self.plain)
        return value if self.expert is None else value[0]


@dataclass
class MatrixPair:
    """A matrix that writes to the stream: a weight, an embedding, one expert of several."""

    writer: Writer
    name: str
    """Of the stored tensor (logical)."""
    expert: int | None
    a: StoredMatrix
    b: StoredMatrix
    gain: Vector | None
    """What the norms between it and the stream multiply with; None without norms."""
    centred: bool

    @property
    def label(self) -> str:
        return self.name if self.a.expert is None else f"{self.name}[{self.expert}]"

    @property
    def width(self) -> int:
        return self.a.shape[self.a.axis]

    @property
    def count(self) -> int:
        """How many vectors of the stream it holds."""
        return math.prod(self.a.shape) // self.width

    @property
    def fraction(self) -> int:
        """Of the coarser of the two."""
        return min(side.encoded.fraction_bits(side.model.checkpoint) for side in (self.a, self.b))

    @property
    def packed(self) -> bool:
        return self.a.plain is None or self.b.plain is None

    @property
    def row_norm_defined(self) -> bool:
        return self.writer.layer is not None and not self.writer.slot.flat

    @contextmanager
    def held(self) -> Iterator[None]:
        """Both matrices in memory, as they are stored."""
        try:
            self.a.hold()
            self.b.hold()
            yield
        finally:
            self.a.release()
            self.b.release()

    @property
    def sampled(self) -> bool:
        """It has more vectors than a fit needs."""
        return self.count > SAMPLE

    def blocks(
        self, sample: bool = False
    ) -> Iterator[tuple[Float[Tensor, "m d_model"], Float[Tensor, "m d_model"]]]:
        """Vectors of A and B: all, or those that fits are made on."""
        for first, last in self._stretches(sample):
            rows = max(1, TILE // self.width)
            for start in range(first, last, rows):
                end = min(start + rows, last)
                yield self.a.vectors(start, end), self.b.vectors(start, end)

    def _stretches(self, sample: bool) -> list[tuple[int, int]]:
        if not (sample and self.sampled):
            return [(0, self.count)]
        length = SAMPLE // SPREAD
        return [
            (start, start + length)
            for start in (i * (self.count - length) // (SPREAD - 1) for i in range(SPREAD))
        ]

    def as_stored(self, values: Float[Tensor, "m d_model"]) -> Float[Tensor, "m d_model"]:
        """Rounded as B stores them; packed formats are left as they are."""
        return values if self.b.plain is None else values.to(self.b.plain).to(values.dtype)

    def same(self) -> bool:
        """The very same values, bit by bit where both are stored alike."""
        return all(torch.equal(a, b) for a, b in self.blocks())


def matrix_pairs(model_a: OpenedModel, model_b: OpenedModel) -> list[MatrixPair]:
    """Every matrix of a writer that both hold, in the order of the writers."""
    pairs = []
    for writer in model_a.architecture.writers:
        gain, centred = gain_of(model_a, writer)
        for stored in writer.weights:
            if stored.name not in model_b.architecture.shapes:
                continue
            shape = model_a.architecture.shapes[stored.name]
            fused = len(shape) == 3 and stored.expert is None
            for number in range(shape[0]) if fused else [None]:
                sides = [
                    StoredMatrix.of(model, stored.name, stored.axis, number) for model in (model_a, model_b)
                ]
                expert = stored.expert if number is None else number
                pairs.append(MatrixPair(writer, stored.name, expert, sides[0], sides[1], gain, centred))
    return pairs


def gain_of(model: OpenedModel, writer: Writer) -> tuple[Vector | None, bool]:
    """The product of what the norms behind a writer multiply with, and whether one of them takes
    the mean out.
    """
    if not writer.norms:
        return None, False

    def weight_of(norm: PostNorm) -> Tensor:
        return read_stored(model.checkpoint, norm.weight).float()

    product = torch.ones(model.architecture.d_model)
    for passed in writer.norms:
        product = product * norm_gain(passed, weight_of, model.architecture.d_model)
    return product, any(passed.norm.centred for passed in writer.norms)


def step(values: Float[Tensor, "*shape"], fraction: int, typical: float) -> Float[Tensor, "*shape"]:
    """The distance between a number's neighbours, 2^(exponent - fraction), in a matrix of numbers
    of a typical size.
    """
    if values.dtype == torch.float64:
        power = torch.exp2(torch.floor(torch.log2(values.abs().clamp_min(typical * FINEST))))
        return power * 2.0**-fraction
    power = (values.view(torch.int32) & 0x7F800000).view(torch.float32)
    return power.clamp_min(max(typical * FINEST, torch.finfo(torch.float32).tiny)) * 2.0**-fraction


def finite(value: float, name: str, model_a: OpenedModel, model_b: OpenedModel) -> float:
    """A sum over both sides; raises CheckpointError if something in it was NaN or infinite."""
    if not math.isfinite(value):
        folders = f"{model_a.checkpoint.path} or {model_b.checkpoint.path}"
        raise CheckpointError(f"'{name}' holds NaN or infinite values in {folders}; download it again")
    return value
