"""Verdicts on many completions at once. `vectomy evaluate` calls its judge only here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vectomy.data.prompts import Prompt
from vectomy.metrics.judges import Judge, Verdict, refuses

__all__ = ["JudgedAnswers", "judge_all"]


@dataclass(frozen=True)
class JudgedAnswers:
    """A verdict. `p_refusal` is the judge's probability of a full or partial refusal, None if it
    has none.
    """

    verdict: Verdict
    p_refusal: float | None = None

    @property
    def refuses(self) -> bool | None:
        """None if the answer was not judged; so are the other two."""
        return refuses(self.verdict)

    @property
    def degenerate(self) -> bool | None:
        return None if self.verdict == "not_judged" else self.verdict == "degenerate"

    @property
    def answers(self) -> bool | None:
        """Whether it is no refusal, no evasion and not degenerate."""
        return None if self.verdict == "not_judged" else self.verdict == "compliance"


def judge_all(judge: Judge, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[JudgedAnswers]:
    """A verdict on each completion, in order."""
    judgements = judge.judged([prompt.text for prompt in prompts], texts)
    return [JudgedAnswers(judgement.verdict, judgement.p_refusal) for judgement in judgements]
