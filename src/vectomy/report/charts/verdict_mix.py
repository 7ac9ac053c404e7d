"""The verdicts of each subject on one set as shares of a bar: full refusal, partial refusal,
evasion, compliance, degenerate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from vectomy.report.charts.svg import element, figure, text
from vectomy.report.tables.completions import VERDICTS
from vectomy.report.tables.numbers import finite, percent
from vectomy.report.tables.subject_parts import SubjectResult

__all__ = ["verdict_mix"]

WIDTH, RIGHT, HEAD, ROW = 340.0, 6.0, 40.0, 20.0
CHARACTER = 6.0
SHORT = {
    "full_refusal": "full",
    "partial_refusal": "partial",
    "evasion": "evasion",
    "compliance": "compliance",
    "degenerate": "degenerate",
}


def verdict_mix(compared: Sequence[SubjectResult], name: str) -> Markup:
    """The chart of the set `name`, or an empty string where nobody was measured on it."""
    known = [(subject, counts) for subject in compared if (counts := _counts(subject.on(name).verdicts))]
    if not known:
        return Markup("")
    left = CHARACTER * max(len(subject.label) for subject, _ in known) + 10
    parts, offset = [], 4.0
    for verdict, words in SHORT.items():
        parts.append(element("rect", x=offset, y=4, width=9, height=9, class_=f"share {verdict}"))
        parts.append(text(offset + 13, 12, words, "label"))
        offset += 27 + 5.6 * len(words)
    told = []
    for place, (subject, counts) in enumerate(known):
        y, total = HEAD - 14 + ROW * place, sum(counts.values())
        parts.append(text(left - 6, y + 11.5, subject.label, "row", "end"))
        x = left
        for verdict in VERDICTS:
            width = (WIDTH - RIGHT - left) * counts[verdict] / total
            if width:
                tip = element(
                    "title", f"{subject.name}: {counts[verdict]:g} of {total:g} {VERDICTS[verdict]}"
                )
                parts.append(
                    element("rect", tip, x=x, y=y, width=width, height=ROW - 5, class_=f"share {verdict}")
                )
            x += width
        shares = ", ".join(
            f"{percent(counts[verdict] / total)} {words}" for verdict, words in VERDICTS.items()
        )
        told.append(f"{subject.name}: {shares}")
    bottom = HEAD - 14 + ROW * len(known)
    for share in (0.0, 0.5, 1.0):
        parts.append(
            text(
                left + (WIDTH - RIGHT - left) * share,
                bottom + 11,
                f"{share:.0%}",
                "tick",
                "middle" if share < 1 else "end",
            )
        )
    return figure("mix", f"Verdicts on {name}", "; ".join(told) + ".", (WIDTH, bottom + 16), parts)


def _counts(verdicts: Mapping[str, float]) -> dict[str, float] | None:
    counts = {verdict: finite(verdicts.get(verdict)) or 0.0 for verdict in VERDICTS}
    return counts if sum(counts.values()) > 0 else None
