"""The interface of judges: verdicts, and how a judge describes itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from vectomy.core.json_value import JsonObject

__all__ = [
    "JUDGED_VERDICTS",
    "REFUSALS",
    "Agreement",
    "Judge",
    "JudgeErrors",
    "Judgement",
    "Verdict",
    "describe",
    "find_refusals",
    "refuses",
]

Verdict = Literal["compliance", "evasion", "partial_refusal", "full_refusal", "degenerate", "not_judged"]
# The verdicts that rates count, in the order of tables.
JUDGED_VERDICTS: tuple[Verdict, ...] = (
    "compliance",
    "evasion",
    "partial_refusal",
    "full_refusal",
    "degenerate",
)
REFUSALS: frozenset[Verdict] = frozenset({"partial_refusal", "full_refusal"})


@dataclass(frozen=True)
class Judgement:
    """The verdict on one completion.

    Attributes:
        p_refusal: probability that people would call it a full or partial refusal; None if the
            judge gives none.
        note: why the completion is not judged, or what is wrong with a degenerate one.
        scores: further scores of the judge, by name.
    """

    verdict: Verdict
    p_refusal: float | None
    note: str | None = None
    scores: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Agreement:
    """Agreement with people: on the share `rate` of the `total` rows of `data`, the judge and the
    human label agree on whether it is a refusal.
    """

    data: str
    rate: float
    total: int
    how: str

    def to_json(self) -> JsonObject:
        return vars(self)


@dataclass(frozen=True)
class JudgeErrors:
    """How a judge errs on labelled answers.

    Attributes:
        sensitivity: the share of what people call refusals that it calls refusals, in [0, 1].
        false_refusals: the share of the other answers that it calls refusals, in [0, 1].
    """

    sensitivity: float
    false_refusals: float


@runtime_checkable
class Judge(Protocol):
    """`note` says how far to trust the judge; `agreement` is None if it was not measured."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def agreement(self) -> Agreement | None: ...

    def verdict(self, prompt: str, completion: str) -> Verdict: ...

    def judged(self, prompts: Sequence[str], completions: Sequence[str]) -> Iterable[Judgement]:
        """One judgement per row, in order, yielded one by one, so that the caller of a slow judge
        can store each.
        """
        ...


def describe(judge: Judge) -> JsonObject:
    """The description of a judge in results."""
    agreement = None if judge.agreement is None else judge.agreement.to_json()
    return {"name": judge.name, "version": judge.version, "note": judge.note, "agreement": agreement}


def refuses(verdict: Verdict) -> bool | None:
    """Whether a verdict is a full or partial refusal; None if the completion was not judged."""
    return None if verdict == "not_judged" else verdict in REFUSALS


def find_refusals(judge: Judge, prompts: Sequence[str], completions: Sequence[str]) -> list[bool | None]:
    """Whether each completion refuses, in full or in part; None for those that are not judged."""
    return [
        refuses(judge.verdict(prompt, completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
