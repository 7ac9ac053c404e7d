"""Answers side by side, each with its verdict; those that say the same share one column, and long
ones are folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vectomy.core.results import GivenAnswer
from vectomy.report.tables.numbers import finite

__all__ = ["VERDICTS", "Answer", "answers", "list_answers", "verdict_name"]

CLAMP = 320
CLAMP_LINES = 8
VERDICTS = {
    "full_refusal": "full refusal",
    "partial_refusal": "partial refusal",
    "evasion": "evasion",
    "compliance": "compliance",
    "degenerate": "degenerate",
}


@dataclass(frozen=True)
class Answer:
    """A completion as shown: `preview` is empty where the text is short enough to stand whole."""

    names: tuple[str, ...]
    """Who gave it: forms of an edit, or subjects of an evaluation."""
    verdict: str
    verdict_class: str
    chance: float | None
    """The judge's probability that it refuses; None where the judge gives none."""
    text: str
    preview: str

    @property
    def given_by(self) -> str:
        return list_answers(self.names)


def answers(row: Mapping[str, GivenAnswer], names: tuple[str, ...]) -> list[Answer]:
    """The answers in the order of `names`; those with the same text and verdict share one."""
    shared: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if answer := row.get(name):
            shared.setdefault((str(answer.text or ""), str(answer.verdict or "")), []).append(name)
    return [
        Answer(
            tuple(given),
            verdict_name(verdict),
            verdict if verdict in VERDICTS else "other",
            finite(row[given[0]].p_refusal),
            text,
            _preview(text),
        )
        for (text, verdict), given in shared.items()
    ]


def list_answers(words: tuple[str, ...] | list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), *words[-1:]] if len(words) > 1 else words)


def verdict_name(verdict: object) -> str:
    return VERDICTS.get(str(verdict), str(verdict or "not judged").replace("_", " "))


def _preview(text: str) -> str:
    """The beginning of a long text, cut between words; empty for a short one."""
    lines = "\n".join(text.split("\n")[:CLAMP_LINES])
    if len(lines) > CLAMP * 1.15:
        cut = lines[:CLAMP]
        return cut[: max(cut.rfind(" "), CLAMP - 40)].rstrip()
    return lines.rstrip() if len(lines) < len(text) else ""
