"""What a comparison found, and how it says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vectomy.core.component import Component
from vectomy.core.json_value import JsonObject
from vectomy.core.types import NormMode
from vectomy.edits.edit import Edit
from vectomy.report.notebook import draw_strengths

__all__ = ["Comparison", "TensorDifference", "Verdict", "WriterDifference"]

Verdict = Literal["identical", "directional", "partly_directional", "other"]


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that both hold and that differs."""

    name: str
    relative: float
    """|B - A| / |A|."""
    rounding: float
    """What rounding to the coarser of the two formats makes of any values, in the same unit."""
    writes: bool
    """It writes to the residual stream."""
    explained: bool
    """The Edit makes B's values of A's, up to rounding."""


@dataclass(frozen=True)
class WriterDifference:
    """A matrix that writes to the stream (one expert of several) and differs."""

    name: str
    component: Component
    layer: int | None
    expert: int | None
    width: int
    """Of the stream: the highest rank there can be."""
    relative: float
    rank: int | None
    """Singular values of the difference above rounding; None if more than were looked for, or none
    stands out.
    """
    norm: NormMode | None
    strengths: tuple[float, ...] | None
    """Of the Edit's operation on it."""
    along_shared: float | None
    """Of the difference's squared length, what lies along the shared directions (rounding is part
    of the rest).
    """
    equal: float | None
    """Of its elements, how many the Edit makes exactly as B stores them."""
    carried: bool
    """It is a removal of directions, up to rounding."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """The difference between checkpoint A and checkpoint B.

    `directions` (k x d_model) are orthonormal: the directions that all removals share, or, if the
    writers do not differ by removals, the leading directions of all differences. `explained` has
    for the first 1, 2, ... of them the explained share of the squared difference; each writer
    counts relative to its own length. `edit` turns A into B: completely for the verdict
    `directional`, in some writers for `partly_directional`, and is None otherwise.
    """

    a: str
    b: str
    verdict: Verdict
    summary: str
    """The verdict in one sentence."""
    same: int
    """Tensors with the same values."""
    differing: tuple[TensorDifference, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    writers: tuple[WriterDifference, ...]
    directions: Float[Tensor, "k d_model"]
    explained: tuple[float, ...]
    edit: Edit | None
    equal: float | None
    """Share of the elements of edited tensors that the Edit gives exactly as B stores them."""
    within: float | None
    """Share of these elements within one rounding step of the stored format."""
    worst: float | None
    """The largest distance of such an element from B, in rounding steps of the stored format."""
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"<Comparison: {self.verdict}; {self.same} tensors the same, {len(self.differing)} differ, "
            f"{len(self.writers)} writers>"
        )

    def _repr_html_(self) -> str:
        """The strengths of the Edit that explains the difference, as a picture in a notebook."""
        operations = self.edit.operations if self.edit is not None else ()
        rows = [
            {"layer": op.layer, "component": op.component, "strengths": op.strengths.tolist()}
            for op in operations
        ]
        return draw_strengths(f"{self!r} {self.summary}", rows, 0)

    @property
    def strengths(self) -> dict[str, tuple[float, ...]]:
        """The strengths of `edit` by the name of the writer; empty without an Edit."""
        operations = self.edit.operations if self.edit is not None else ()
        return {op.writer_name: tuple(op.strengths.tolist()) for op in operations}

    def to_json(self) -> JsonObject:
        """The values that `vectomy compare --json` prints; the Edit by its strengths."""
        return {
            "a": self.a,
            "b": self.b,
            "verdict": self.verdict,
            "summary": self.summary,
            "same": self.same,
            "differing": [vars(row) for row in self.differing],
            "only_in_a": list(self.only_in_a),
            "only_in_b": list(self.only_in_b),
            "writers": [
                vars(row) | {"strengths": None if row.strengths is None else list(row.strengths)}
                for row in self.writers
            ],
            "directions": len(self.directions),
            "explained": list(self.explained),
            "edit": None
            if self.edit is None
            else {
                "sha256": self.edit.sha256,
                "operations": len(self.edit.operations),
                "strengths": {name: list(values) for name, values in self.strengths.items()},
            },
            "reproduced": None
            if self.equal is None
            else {"equal": self.equal, "within_a_step": self.within, "worst_in_steps": self.worst},
            "notes": list(self.notes),
        }
