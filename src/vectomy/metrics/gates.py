"""Limits that an evaluation must meet, so that a script can stop where one is missed.

A gate is `[SUBJECT:]WHAT OP LIMIT`. WHAT is a prompt set (its refusals), `SET.LABEL` (the refusals
of the prompts with that label), `SET.MEASURE`, or a measure alone: the worst of all sets. OP is <=,
<, >= or >. LIMIT is a number, or `base` with or without `+NUMBER`.

A gate is met where the whole 95% interval of the value lies on the right side of the limit, missed
where the whole interval lies on the wrong side, and unresolved in between: more prompts are needed.
Against `base` the prompts are the same ones, so the counts are compared: met if the subject's is
not on the wrong side, missed if it is and chance does not explain it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vectomy.core.errors import ConfigError
from vectomy.core.results import (
    EvaluationResults,
    GateResult,
    PairedTest,
    PartNumbers,
    Rate,
    SetNumbers,
    SubjectNumbers,
)
from vectomy.core.suggestions import suggest

__all__ = ["GATE_MEASURES", "Gate", "GateStatus", "check_gates", "parse_gate", "worst_status"]

GateStatus = Literal["met", "missed", "unresolved"]
GATE_MEASURES = ("refusal", "degenerate", "kl", "kl_first_token")
FORM = re.compile(
    r"\s*(?P<what>[^<>=]+?)\s*(?P<operator><=|>=|<|>)\s*"
    r"(?P<limit>base(?:\s*(?P<margin>[+-]\s*[\d.]+(?:e-?\d+)?))?|-?[\d.]+(?:e-?\d+)?)\s*"
)
REMEDY = (
    "write [SUBJECT:]WHAT OP LIMIT, for example 'harmful<=0.06', 'xstest.safe<=base', 'kl<=0.01' or "
    "'harmless.degenerate<=base+0.03'"
)
Z = 1.959964
# Kinds of subjects that gates are about: the base is what they are compared with, and controls are
# what an edit has to differ from.
GATED = ("edit", "model", "adapter", "served")


@dataclass(frozen=True)
class Gate:
    """A gate as it was written, and its parts.

    Attributes:
        what: set, label and measure, with or without a subject.
        upper: whether the limit is an upper one.
        strict: whether the limit itself is on the wrong side.
        limit: the number; with `against_base` it is added to the base's value.
    """

    text: str
    what: str
    upper: bool
    strict: bool
    limit: float
    against_base: bool


@dataclass(frozen=True)
class GateTarget:
    """What a gate looks at: the refusals or a measure of a set, or of the prompts of a label."""

    set: str
    label: str | None
    measure: str


def parse_gate(text: str) -> Gate:
    """Raises ConfigError if `text` is not of the form of a gate."""
    match = FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"the gate '{text}' cannot be read; {REMEDY}")
    against_base = match["limit"].startswith("base")
    number = (match["margin"] or "0").replace(" ", "") if against_base else match["limit"]
    try:
        limit = float(number)
    except ValueError:
        raise ConfigError(f"the limit {number} of the gate '{text}' is no number; {REMEDY}") from None
    operator = match["operator"]
    return Gate(text.strip(), match["what"], "<" in operator, "=" not in operator, limit, against_base)


def check_gates(gates: Sequence[Gate], evaluation: EvaluationResults) -> list[GateResult]:
    """One result for each gate and each subject that it is about.

    Before anything is measured, an evaluation without `results` shows whether the names are right:
    every gate is unresolved then.

    Raises:
        ConfigError: a gate names a subject, set, label or measure that the evaluation does not
            have, or there is no subject beside the base.
    """
    return [
        _check(gate, subject, place, evaluation)
        for gate in gates
        for subject, places in _resolve(gate, evaluation)
        for place in [_worst(gate, places, evaluation.results.get(subject, SubjectNumbers()))]
    ]


def worst_status(results: Sequence[GateResult]) -> GateStatus:
    """Missed before unresolved before met."""
    statuses = {result.status for result in results}
    return "missed" if "missed" in statuses else "unresolved" if "unresolved" in statuses else "met"


def _resolve(gate: Gate, evaluation: EvaluationResults) -> Iterator[tuple[str, list[GateTarget]]]:
    subjects = [str(subject.name) for subject in evaluation.subjects if subject.kind in GATED]
    if not subjects:
        raise ConfigError(
            f"the gate '{gate.text}' is about models and Edits beside the base, and there are none; give a "
            "second subject"
        )
    what = gate.what
    for subject in sorted(subjects, key=len, reverse=True):
        if what.startswith(f"{subject}:"):
            subjects, what = [subject], what.removeprefix(f"{subject}:").strip()
            break
    places = _places(gate, what, evaluation)
    if gate.against_base and any(place.measure.startswith("kl") for place in places):
        raise ConfigError(f"the gate '{gate.text}': KL is a distance from the base; give a number as limit")
    for subject in subjects:
        yield subject, places


def _places(gate: Gate, what: str, evaluation: EvaluationResults) -> list[GateTarget]:
    names = [str(measured.name) for measured in evaluation.sets]
    if what in names:
        return [GateTarget(what, None, "refusal")]
    if what in GATE_MEASURES:
        return [GateTarget(name, None, what) for name in names]
    for measured in sorted(evaluation.sets, key=lambda item: len(str(item.name)), reverse=True):
        part = what.removeprefix(f"{measured.name}.")
        if part == what:
            continue
        labels = {kind.label for kind in measured.types if kind.label}
        if part in GATE_MEASURES:
            return [GateTarget(str(measured.name), None, part)]
        if part in labels:
            return [GateTarget(str(measured.name), part, "refusal")]
        parts = [*GATE_MEASURES, *sorted(labels)]
        raise ConfigError(
            f"the gate '{gate.text}': the set {measured.name} has no '{part}'{suggest(part, parts)}; it has "
            f"{', '.join(parts)}"
        )
    choices = [*names, *GATE_MEASURES]
    raise ConfigError(
        f"the gate '{gate.text}' names '{what}', which is no set and no measure{suggest(what, choices)}; "
        f"there are {', '.join(choices)}"
    )


def _worst(gate: Gate, places: Sequence[GateTarget], numbers: SubjectNumbers) -> GateTarget:
    """Of several sets the one with the worst value; the first where nothing is measured."""

    def badness(place: GateTarget) -> float:
        value, _ = _measured(place, numbers.sets.get(place.set, SetNumbers()))
        return -math.inf if value is None else value if gate.upper else -value

    return max(places, key=badness)


def _measured(place: GateTarget, numbers: SetNumbers) -> tuple[float | None, tuple[float, float] | None]:
    """A value and its 95% interval."""
    part: PartNumbers = numbers if place.label is None else numbers.by_label.get(place.label, PartNumbers())
    if place.measure in ("refusal", "degenerate"):
        rate: Rate = getattr(part, place.measure)
        return rate.rate, rate.ci if rate.rate is not None else None
    if place.measure == "kl_first_token":
        return part.kl_first_token, None
    value, error = part.kl_per_token, part.kl_per_token_stderr
    if value is None or error is None:
        return value, None
    return value, (max(0.0, value - Z * error), value + Z * error)


def _check(gate: Gate, subject: str, place: GateTarget, evaluation: EvaluationResults) -> GateResult:
    numbers = evaluation.results.get(subject, SubjectNumbers()).sets.get(place.set, SetNumbers())
    value, interval = _measured(place, numbers)
    limit: float | None = gate.limit
    if gate.against_base:
        of = next((str(item.of) for item in evaluation.subjects if item.name == subject), "")
        base = evaluation.results.get(of, SubjectNumbers()).sets.get(place.set, SetNumbers())
        reference, _ = _measured(place, base)
        limit = None if reference is None else reference + gate.limit
        status = _compare_with_base(gate, place, numbers, base, value, limit)
    else:
        status = _compare_with_number(gate, value, interval)
    return GateResult(
        gate=gate.text,
        subject=subject,
        set=place.set,
        label=place.label,
        measure=place.measure,
        value=value,
        ci=interval,
        limit=limit,
        status=status,
    )


def _compare_with_number(gate: Gate, value: float | None, interval: tuple[float, float] | None) -> GateStatus:
    if value is None:
        return "unresolved"
    low, high = interval or (value, value)
    if _right(gate, low, gate.limit) and _right(gate, high, gate.limit):
        return "met"
    wrong = not _right(gate, low, gate.limit) and not _right(gate, high, gate.limit)
    return "missed" if wrong else "unresolved"


def _right(gate: Gate, value: float, limit: float) -> bool:
    if gate.strict:
        return value < limit if gate.upper else value > limit
    return value <= limit if gate.upper else value >= limit


def _compare_with_base(
    gate: Gate,
    place: GateTarget,
    numbers: SetNumbers,
    base: SetNumbers,
    value: float | None,
    limit: float | None,
) -> GateStatus:
    if value is None or limit is None:
        return "unresolved"
    # Shares of the same total: rounding of the sum must not decide.
    nearly = limit + (1e-9 if gate.upper else -1e-9) * (-1 if gate.strict else 1)
    if _right(gate, value, nearly):
        return "met"
    paired = numbers.against_base if place.label is None and place.measure == "refusal" else None
    rates = [
        getattr(part if place.label is None else part.by_label.get(place.label, PartNumbers()), place.measure)
        for part in (numbers, base)
    ]
    error = _difference_error(rates[0], rates[1], paired)
    return "missed" if error is not None and abs(value - limit) > Z * error else "unresolved"


def _difference_error(ours: Rate, theirs: Rate, paired: PairedTest | None) -> float | None:
    """Standard error of a difference of two rates: of pairs (Agresti and Min 2005) where the pairs
    were counted, otherwise as if the prompts were different ones, which is larger.
    """
    if not ours.total or not theirs.total:
        return None
    if paired is not None and paired.gained is not None and paired.lost is not None:
        changed, net, total = paired.gained + paired.lost + 1, paired.gained - paired.lost, ours.total + 2
        return math.sqrt(max(0.0, changed - net * net / total)) / total
    shares = [((rate.count or 0) + 1) / (rate.total + 2) for rate in (ours, theirs) if rate.total]
    return math.sqrt(
        sum(
            share * (1 - share) / (total + 2)
            for share, total in zip(shares, (ours.total, theirs.total), strict=True)
        )
    )
