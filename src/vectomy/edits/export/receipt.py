"""The coverage receipt: every residual writer of the model, edited or left with the reason, and
what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from vectomy.architecture import Architecture, excluded_tensors
from vectomy.checkpoint import Checkpoint
from vectomy.core.json_value import JsonObject
from vectomy.report.notebook import draw_projection

__all__ = ["Receipt", "Status"]

Status = Literal["carried", "not_carried", "unknown"]
"""What `verify` can say: the checkpoint carries the edit, does not, or nothing shows which."""

UNNAMED = "no operation of the edit names it"


@dataclass(frozen=True, repr=False)
class Receipt:
    """The account of an edited checkpoint: which weights were edited, and what was measured.

    `edited` and `left` (name, reason) together name every tensor that writes to the stream;
    `parameters` counts the numbers in the edited ones; `notes` are decisions that a reader must
    know (an untied head, files left behind).
    """

    edited: tuple[str, ...]
    left: tuple[tuple[str, str], ...]
    parameters: int
    notes: tuple[str, ...] = ()
    rounding: Mapping[str, float] = field(default_factory=dict)
    """By quantised weight, the relative rounding error |stored - exact| / |exact|."""
    residue: Mapping[str, float] = field(default_factory=dict)
    """By weight of a GGUF file, the share of the change that was lost to rounding."""
    projection: tuple[float, ...] | None = None
    """The largest |r . x| / |x| over directions r and tokens: n_layers + 1 numbers between 0 and 1,
    for the stream before the first block and after each block. None: not measured.
    """
    how: str = ""
    """The texts and the dtype with which `projection` was measured."""
    failures: tuple[str, ...] = ()
    """Tensors among `left` that the edit names and that do not carry it (metrics/verify.py)."""
    status: Status | None = None
    """Whether the checkpoint carries the edit; None where nothing was verified and nothing was
    found wrong.
    """
    reason: str = ""
    """What the status is based on."""
    added: tuple[str, ...] = ()
    """Biases that the base does not have and that hold the edit's vectors."""

    def __repr__(self) -> str:
        most = self.max_projection
        measured = "" if most is None else f", at most {most:.2g} of the stream along the directions"
        status = "" if self.status is None else f"{self.status}: "
        return f"<Receipt: {status}{len(self.edited)} tensors edited, {len(self.left)} left{measured}>"

    def _repr_html_(self) -> str:
        """What is left of the directions by layer, as a picture in a notebook."""
        return draw_projection(repr(self), self.projection)

    @property
    def max_projection(self) -> float | None:
        """The largest number of `projection`, or None."""
        return None if self.projection is None else max(self.projection)

    def with_non_finite(self, names: Collection[str]) -> Receipt:
        """The receipt of a checkpoint in which these tensors hold NaN or infinite values."""
        if not names:
            return self
        first, others = next(iter(names)), len(names) - 1
        more = f" and {others} more" if others else ""
        reason = f"NaN or infinite values in '{first}'{more}; no model computes with them"
        return replace(self, status="not_carried", reason=reason)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        architecture: Architecture,
        edited: Collection[str],
        notes: Collection[str] = (),
        errors: Mapping[str, float] | None = None,
        added: Mapping[str, str] | None = None,
    ) -> Receipt:
        """The receipt of a finished bake, before anything is measured.

        Args:
            edited: names of the edited tensors; all other writers are listed as left.
            errors: relative rounding errors, by name of a quantised weight.
            added: new biases that hold the edit's vectors, by weight of their writer.
        """
        touched, biases = set(edited), added or {}
        order = {name: place for place, name in enumerate(architecture.shapes)}
        writers = dict.fromkeys(
            name for writer in architecture.writers for name in writer.tensors if name in architecture.shapes
        )
        left = [
            (name, f"the edit's vector is in '{biases[name]}'" if name in biases else UNNAMED)
            for name in writers
            if name not in touched
        ]
        return cls(
            edited=tuple(sorted(touched, key=lambda name: order[name])),
            left=(*left, *excluded_tensors(architecture)),
            parameters=sum(math.prod(architecture.shapes[name]) for name in touched),
            notes=tuple(notes),
            rounding=dict(errors or {}),
            added=tuple(biases.values()),
        )

    def to_json(self) -> JsonObject:
        """The fields as in receipt.json, with `max_projection`."""
        return {**asdict(self), "max_projection": self.max_projection}
