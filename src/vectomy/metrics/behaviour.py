"""Rates of a model's behaviour on a prompt set, counted from verdicts: overall, by type, by label
and by answer length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

from vectomy.core.json_value import JsonObject
from vectomy.data.prompts import Labelled
from vectomy.metrics.detectable_effect import detectable
from vectomy.metrics.intervals import rate_of
from vectomy.metrics.judges import JudgeErrors, Verdict
from vectomy.metrics.judges.degeneration import repeated_share
from vectomy.metrics.verdicts import JudgedAnswers

__all__ = ["behaviour_of", "lengths", "refusal_and_degenerate", "types_of"]


def behaviour_of(
    rows: Sequence[Labelled],
    by_length: Mapping[int, Sequence[JudgedAnswers]],
    errors: JudgeErrors | None = None,
) -> JsonObject:
    """Counts and rates of one set. Rows without a type or label belong to no group of that kind.

    Args:
        by_length: verdicts by the largest number of answer tokens. The longest answers count; the
            shorter ones are the same answers, cut.
        errors: of the judge, for the minimum detectable effects.
    """
    *shorter, longest = sorted(by_length)
    judged = by_length[longest]
    counts = Counter(answer.verdict for answer in judged)
    groups = {kind: _groups(rows, judged, kind) for kind in ("label", "type")}
    labels = {row.type: row.label for row in rows}
    return {
        "verdicts": {verdict: counts[verdict] for verdict in get_args(Verdict)},
        **refusal_and_degenerate(judged, errors),
        "by_label": {
            name: {"refusal": _refusal_rate(flags, errors)} for name, flags in groups["label"].items()
        },
        "by_type": {
            name: {"label": labels[name], "refusal": _refusal_rate(flags, errors)}
            for name, flags in groups["type"].items()
        },
        "by_budget": {
            str(length): refusal_and_degenerate(by_length[length], errors) for length in [*shorter, longest]
        },
    }


def refusal_and_degenerate(judged: Sequence[JudgedAnswers], errors: JudgeErrors | None = None) -> JsonObject:
    return {
        "refusal": _refusal_rate([answer.refuses for answer in judged], errors),
        "degenerate": rate_of(answer.degenerate for answer in judged),
    }


def _refusal_rate(flags: Sequence[bool | None], errors: JudgeErrors | None) -> JsonObject:
    rate = rate_of(flags)
    return rate if errors is None else {**rate, "minimum_detectable_effect": detectable(flags, errors)}


def _groups(
    rows: Sequence[Labelled], judged: Sequence[JudgedAnswers], kind: str
) -> dict[str, list[bool | None]]:
    groups: dict[str, list[bool | None]] = {}
    for row, answer in zip(rows, judged, strict=True):
        name = row.type if kind == "type" else row.label
        if name is not None:
            groups.setdefault(name, []).append(answer.refuses)
    return groups


def types_of(rows: Sequence[Labelled]) -> list[JsonObject]:
    """The types of a set in order of appearance, with their label and number of prompts."""
    counts = Counter(row.type for row in rows if row.type is not None)
    labels = {row.type: row.label for row in rows}
    return [{"name": name, "label": labels[name], "count": count} for name, count in counts.items()]


def lengths(answers: Sequence[Sequence[int]], texts: Sequence[str]) -> dict[str, float]:
    """Mean tokens of an answer, and the mean share of its four-word runs that occurred before."""
    return {
        "length_mean": sum(map(len, answers)) / len(answers),
        "repeated_share": sum(map(repeated_share, texts)) / len(texts),
    }
