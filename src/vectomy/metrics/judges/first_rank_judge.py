"""A judge that only the first rank asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from vectomy.core.ranks import current_ranks
from vectomy.metrics.judges.verdict import Agreement, Judge, Judgement, Verdict

__all__ = ["FirstRankJudge"]


@dataclass(frozen=True)
class FirstRankJudge:
    """Gives all ranks the verdicts of rank 0: a server may answer each of them otherwise. All ranks
    have to ask for the same ones, in the same order, or each of them `apart`.
    """

    judge: Judge

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def version(self) -> str:
        return self.judge.version

    @property
    def note(self) -> str:
        return self.judge.note

    @property
    def agreement(self) -> Agreement | None:
        return self.judge.agreement

    def verdict(self, prompt: str, completion: str) -> Verdict:
        return current_ranks().on_first(partial(self.judge.verdict, prompt, completion))

    def judged(self, prompts: Sequence[str], completions: Sequence[str]) -> Iterator[Judgement]:
        for prompt, completion in zip(prompts, completions, strict=True):
            yield current_ranks().on_first(partial(self._judge, prompt, completion))

    def _judge(self, prompt: str, completion: str) -> Judgement:
        return next(iter(self.judge.judged([prompt], [completion])))
