"""Verdicts on many completions at once: the one place where `vectomy evaluate` asks its judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vectomy.data.prompts import Prompt
from vectomy.metrics.judges import REFUSALS, Judge, Verdict

__all__ = ["JudgedAnswers", "judge_all"]


@dataclass(frozen=True)
class JudgedAnswers:
    """`p_refusal` is the judge's probability that the completion refuses, in full or in part; None
    where it has none.
    """

    verdict: Verdict
    p_refusal: float | None = None

    @property
    def refuses(self) -> bool:
        return self.verdict in REFUSALS

    @property
    def degenerate(self) -> bool:
        return self.verdict == "degenerate"


def judge_all(judge: Judge, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[JudgedAnswers]:
    """A verdict on each completion, in order."""
    said = judge.judged([prompt.text for prompt in prompts], texts)
    return [JudgedAnswers(one.verdict, one.p_refusal) for one in said]
