"""What an evaluation compares, and on what: subjects (the base, edits along their dial, controls)
and parts of prompt sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vectomy.core.results import (
    EvaluatedSubject,
    EvaluationResults,
    PartNumbers,
    Rate,
    SetNumbers,
    SubjectNumbers,
)
from vectomy.report.tables.numbers import finite, plain

__all__ = [
    "KINDS",
    "Part",
    "SubjectResult",
    "base_subject",
    "damage_set",
    "dials",
    "focus",
    "main_part",
    "over_refusal",
    "parts",
    "subjects",
]

KINDS = {
    "base": "base",
    "model": "checkpoint",
    "edit": "edit",
    "adapter": "adapter",
    "served": "served model",
    "random": "random control",
    "noise": "noise floor",
}
HALF = 0.5
# The longest name that a picture has room for.
SHORT = 17


@dataclass(frozen=True)
class SubjectResult:
    """One of those compared, with its results; `label` is what pictures call it."""

    name: str
    kind: str
    label: str
    strength: float | None
    row: EvaluatedSubject
    results: SubjectNumbers

    @property
    def class_(self) -> str:
        return self.kind if self.kind in KINDS else "model"

    @property
    def described(self) -> str:
        kind = KINDS.get(self.kind, self.kind)
        return kind if self.strength is None else f"{kind}, strength {plain(self.strength)}"

    def on(self, name: str) -> SetNumbers:
        """Its results on the set `name`; empty where it was not measured there."""
        return self.results.sets.get(name) or SetNumbers()


@dataclass(frozen=True)
class Part:
    """Prompts that a rate is over: a whole set, or those of one label in it."""

    set: str
    label: str | None = None

    @property
    def name(self) -> str:
        return self.set if self.label is None else f"{self.set}, {self.label}"

    def refusal(self, subject: SubjectResult) -> Rate:
        numbers = subject.on(self.set)
        if self.label is None:
            return numbers.refusal
        return numbers.by_label.get(self.label, PartNumbers()).refusal

    def rate(self, subject: SubjectResult) -> float | None:
        return finite(self.refusal(subject).rate)


def subjects(evaluation: EvaluationResults) -> list[SubjectResult]:
    """All of them in their order. The edits of a single dial are called by their strengths in
    pictures.
    """
    rows = evaluation.subjects
    one_dial = len({(row.source, row.of) for row in rows if row.kind == "edit"}) == 1
    made = []
    for row in rows:
        name, kind, strength = str(row.name), str(row.kind), finite(row.strength)
        label = f"×{plain(strength)}" if kind == "edit" and strength is not None and one_dial else name
        label = label if len(label) <= SHORT else label[: SHORT - 1] + "…"
        made.append(
            SubjectResult(name, kind, label, strength, row, evaluation.results.get(name, SubjectNumbers()))
        )
    return made


def base_subject(evaluation: EvaluationResults) -> SubjectResult | None:
    """The subject that the evaluation names as its base, else the first; None without subjects."""
    compared = subjects(evaluation)
    named = (subject for subject in compared if subject.name == evaluation.base)
    return next(named, compared[0] if compared else None)


def dials(compared: Sequence[SubjectResult]) -> list[list[SubjectResult]]:
    """Each edit along its strength. That of the base begins with the base, which is the same edit
    at strength 0; damage of an edit of another model is measured from that one, so that its dial
    does not begin where the model stands.
    """
    groups: dict[tuple[str, str], list[SubjectResult]] = {}
    for subject in compared:
        if subject.kind == "edit" and subject.strength is not None:
            groups.setdefault((str(subject.row.source), str(subject.row.of)), []).append(subject)
    bases = {subject.name: subject for subject in compared if subject.kind == "base"}
    made = []
    for (_, of), edits in groups.items():
        start = [bases[of]] if of in bases and all((edit.strength or 0) >= 0 for edit in edits) else []
        made.append([*start, *sorted(edits, key=lambda edit: edit.strength or 0)])
    return made


def focus(compared: Sequence[SubjectResult]) -> SubjectResult | None:
    """Whom the page speaks of first: the edit whose strength is nearest to 1, else another
    checkpoint.
    """
    changed = [subject for subject in compared if subject.kind in ("edit", "adapter", "model", "served")]
    order = {"edit": 0, "adapter": 1}
    return min(
        changed,
        key=lambda subject: (
            order.get(subject.kind, 2),
            abs((1 if subject.strength is None else subject.strength) - 1),
        ),
        default=None,
    )


def parts(evaluation: EvaluationResults) -> list[Part]:
    """Every set, those with labelled prompts label by label."""
    compared = subjects(evaluation)
    result = []
    for row in evaluation.sets:
        name = str(row.name)
        labels = list(dict.fromkeys(label for subject in compared for label in subject.on(name).by_label))
        result += [Part(name, str(label)) for label in labels] or [Part(name)]
    return result


def main_part(evaluation: EvaluationResults) -> Part | None:
    """The prompts that bring the behaviour out: those that the base refuses most. A whole set is
    taken before the labelled parts of another where the base refuses half of it, since paired tests
    are over whole sets.
    """
    all_parts, base = parts(evaluation), _base(evaluation)
    if base is None:
        return next(iter(all_parts), None)
    whole = [part for part in all_parts if part.label is None and (part.rate(base) or 0.0) >= HALF]
    return max(whole or all_parts, key=lambda part: part.rate(base) or 0.0, default=None)


def damage_set(evaluation: EvaluationResults) -> str | None:
    """The set that damage is read on: of those with a KL per token, the one that the base refuses
    least.
    """
    base = _base(evaluation)
    known = [
        Part(str(row.name))
        for row in evaluation.sets
        if any(finite(s.on(str(row.name)).kl_per_token) is not None for s in subjects(evaluation))
    ]
    chosen = min(known, key=lambda part: (part.rate(base) if base else None) or 0.0, default=None)
    return chosen.set if chosen else None


def over_refusal(evaluation: EvaluationResults) -> tuple[Part, Part] | None:
    """Prompts of one set that should be answered (safe), and those that should not (unsafe)."""
    all_parts = parts(evaluation)
    for part in all_parts:
        unsafe = Part(part.set, "unsafe")
        if part.label == "safe" and unsafe in all_parts:
            return part, unsafe
    return None


def _base(evaluation: EvaluationResults) -> SubjectResult | None:
    compared = subjects(evaluation)
    named = next((subject for subject in compared if subject.name == evaluation.base), None)
    return named or next((subject for subject in compared if subject.kind == "base"), None)
