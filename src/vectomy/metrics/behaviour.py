"""What a model did on a set of prompts, counted from verdicts: rates in all, by type, by label and
by token budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from vectomy.data.prompts import Labelled
from vectomy.metrics.intervals import rate_of
from vectomy.metrics.judges import Verdict
from vectomy.metrics.judges.degeneration import repeated_share
from vectomy.metrics.verdicts import JudgedAnswers

__all__ = ["behaviour_of", "lengths", "refusal_and_degenerate", "types_of"]


def behaviour_of(
    rows: Sequence[Labelled], by_budget: Mapping[int, Sequence[JudgedAnswers]]
) -> dict[str, Any]:
    """Counts and rates of one set. The longest budget counts; the shorter ones are its answers cut
    off.

    Rows without a type or label are in no group of that kind.
    """
    *shorter, longest = sorted(by_budget)
    judged = by_budget[longest]
    counts = Counter(one.verdict for one in judged)
    groups = {kind: _groups(rows, judged, kind) for kind in ("label", "type")}
    labels = {row.type: row.label for row in rows}
    return {
        "verdicts": {verdict: counts[verdict] for verdict in get_args(Verdict)},
        **refusal_and_degenerate(judged),
        "by_label": {name: {"refusal": rate_of(flags)} for name, flags in groups["label"].items()},
        "by_type": {
            name: {"label": labels[name], "refusal": rate_of(flags)} for name, flags in groups["type"].items()
        },
        "by_budget": {
            str(budget): refusal_and_degenerate(by_budget[budget]) for budget in [*shorter, longest]
        },
    }


def refusal_and_degenerate(judged: Sequence[JudgedAnswers]) -> dict[str, Any]:
    return {
        "refusal": rate_of(one.refuses for one in judged),
        "degenerate": rate_of(one.degenerate for one in judged),
    }


def _groups(rows: Sequence[Labelled], judged: Sequence[JudgedAnswers], kind: str) -> dict[str, list[bool]]:
    groups: dict[str, list[bool]] = {}
    for row, one in zip(rows, judged, strict=True):
        name = row.type if kind == "type" else row.label
        if name is not None:
            groups.setdefault(name, []).append(one.refuses)
    return groups


def types_of(rows: Sequence[Labelled]) -> list[dict[str, Any]]:
    """The types of a set in the order in which they come, with their label and number of prompts."""
    counts = Counter(row.type for row in rows if row.type is not None)
    labels = {row.type: row.label for row in rows}
    return [{"name": name, "label": labels[name], "count": count} for name, count in counts.items()]


def lengths(answers: Sequence[Sequence[int]], texts: Sequence[str]) -> dict[str, float]:
    """Mean tokens of an answer, and the mean share of its runs of four words that stood in it
    before.
    """
    return {
        "length_mean": sum(map(len, answers)) / len(answers),
        "repeated_share": sum(map(repeated_share, texts)) / len(texts),
    }
