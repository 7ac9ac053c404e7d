"""The JSON of `vectomy compare`."""

from __future__ import annotations

from pydantic import Field

from vectomy.core.results.json_record import JsonRecord, Named, Number, Rows

__all__ = [
    "ComparedEdit",
    "ComparisonResults",
    "DifferingTensor",
    "DifferingWriter",
    "ReproducedValues",
]


class DifferingTensor(JsonRecord):
    """A tensor that both checkpoints hold and that differs."""

    name: str = ""
    relative: Number | None = None
    rounding: Number | None = None
    writes: bool | None = None
    explained: bool | None = None


class DifferingWriter(JsonRecord):
    """A matrix that writes to the stream and differs."""

    name: str = ""
    component: str | None = None
    layer: int | None = None
    expert: int | None = None
    width: int | None = None
    relative: Number | None = None
    rank: int | None = None
    norm: str | None = None
    strengths: tuple[Number, ...] | None = None
    along_shared: Number | None = None
    equal: Number | None = None
    carried: bool | None = None


class ComparedEdit(JsonRecord):
    """The Edit that makes B of A: its sha256 and its strengths by writer."""

    sha256: str | None = None
    operations: int | None = None
    strengths: Named[tuple[Number, ...]] = Field(default_factory=dict)


class ReproducedValues(JsonRecord):
    """How well the Edit makes B's values of A's: the share that is equal, the share no more than
    one step of the stored format away, and the largest distance in such steps.
    """

    equal: Number | None = None
    within_a_step: Number | None = None
    worst_in_steps: Number | None = None


class ComparisonResults(JsonRecord):
    """How checkpoint B differs from checkpoint A (the fields of comparison/outcome.py)."""

    a: str | None = None
    b: str | None = None
    verdict: str | None = None
    summary: str | None = None
    same: int | None = None
    differing: Rows[DifferingTensor] = ()
    only_in_a: Rows[str] = ()
    only_in_b: Rows[str] = ()
    writers: Rows[DifferingWriter] = ()
    directions: int | None = None
    explained: tuple[Number, ...] = ()
    edit: ComparedEdit | None = None
    reproduced: ReproducedValues | None = None
    notes: Rows[str] = ()
