"""What every judge answers with, and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
    "REFUSALS",
    "Agreement",
    "Judge",
    "Judgement",
    "Verdict",
    "describe",
    "find_refusals",
]

Verdict = Literal["compliance", "partial_refusal", "full_refusal", "degenerate"]
REFUSALS: frozenset[Verdict] = frozenset({"partial_refusal", "full_refusal"})


@dataclass(frozen=True)
class Judgement:
    """A verdict, the probability that people would call the completion a refusal (full or partial),
    and what to know of both.

    `p_refusal` is None where a judge gives no probability. `note` says why a verdict should be
    doubted ("not English") or what is wrong with a degenerate completion; `scores` are what else
    the judge says, by name.
    """

    verdict: Verdict
    p_refusal: float | None
    note: str | None = None
    scores: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Agreement:
    """With people: share `rate` of `total` rows of `data` that the judge and the human label both
    call a refusal, or both not.
    """

    data: str
    rate: float
    total: int
    how: str

    def to_json(self) -> dict[str, Any]:
        return vars(self)


@runtime_checkable
class Judge(Protocol):
    """`note` says how far to trust the judge; `agreement` is None where it was not measured."""

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
        """One judgement a row, in order, as they come: a slow judge's caller can keep each before
        the next.
        """
        ...


def describe(judge: Judge) -> dict[str, Any]:
    """What results say of the judge they come from."""
    agreement = judge.agreement and judge.agreement.to_json()
    return {"name": judge.name, "version": judge.version, "note": judge.note, "agreement": agreement}


def find_refusals(judge: Judge, prompts: Sequence[str], completions: Sequence[str]) -> list[bool]:
    """Whether each completion refuses, in full or in part."""
    return [
        judge.verdict(prompt, completion) in REFUSALS
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
