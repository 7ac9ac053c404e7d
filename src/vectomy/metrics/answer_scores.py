"""Answers to prompts with a verdict on each: whether a direction does what it should, in one call.

vectomy.score(chat, harmful).rate               # the base
with edit.hooks(chat):
    vectomy.score(chat, harmful).rate           # the edit
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vectomy.core.arguments import require
from vectomy.core.config import BatchTokens
from vectomy.core.errors import PromptError, UsageError
from vectomy.core.packages import require_packages
from vectomy.core.progress import Progress, automatic
from vectomy.data.prompts import Prompt, Prompts, as_prompts
from vectomy.metrics.intervals import share_of, wilson_interval
from vectomy.metrics.judges import Judge, Verdict, open_judge, refuses
from vectomy.metrics.verdicts import judge_all
from vectomy.models import ChatModel, require_chat
from vectomy.report.notebook import draw_table

if TYPE_CHECKING:
    import pandas

__all__ = ["AnswerScores", "score"]

# Answers that a cell of a notebook shows.
SHOWN = 10


@dataclass(frozen=True, repr=False)
class AnswerScores:
    """Greedy answers with their verdicts, in the order of the prompts.

    Attributes:
        answers: the texts, thoughts included.
        verdicts: compliance, evasion, partial_refusal, full_refusal, degenerate or not_judged.
        p_refusal: the judge's probability that the answer refuses; None where it gives none.
        judge: the name of the judge.
    """

    prompts: tuple[Prompt, ...]
    answers: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    p_refusal: tuple[float | None, ...]
    judge: str

    @property
    def refused(self) -> tuple[bool | None, ...]:
        """Whether each answer refuses, in full or in part; None where it was not judged."""
        return tuple(refuses(verdict) for verdict in self.verdicts)

    @property
    def rate(self) -> float | None:
        """The share of refusals among the judged answers; None if none was judged."""
        return share_of(self.refused)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the rate."""
        flags = [flag for flag in self.refused if flag is not None]
        return wilson_interval(sum(flags), len(flags))

    def to_frame(self) -> pandas.DataFrame:
        """A pandas DataFrame: prompt, answer, verdict, p_refusal.

        Raises:
            PreflightError: pandas is not installed.
        """
        require_packages("to_frame()", "pandas")
        import pandas

        texts = [prompt.text for prompt in self.prompts]
        rows = zip(texts, self.answers, self.verdicts, self.p_refusal, strict=True)
        return pandas.DataFrame(rows, columns=["prompt", "answer", "verdict", "p_refusal"])

    def __repr__(self) -> str:
        low, high = self.interval
        counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(self.verdicts).most_common(3))
        told = "none judged" if self.rate is None else f"{self.rate:.0%} refused ({low:.0%} to {high:.0%})"
        return f"<AnswerScores of {len(self.answers)} prompts: {told}; {counts}; judge {self.judge:.30}>"

    def _repr_html_(self) -> str:
        """The first answers with their verdicts, as a table in a notebook."""
        rows = [
            (prompt.text[:200], verdict, answer[:300])
            for prompt, verdict, answer in zip(self.prompts, self.verdicts, self.answers, strict=True)
        ]
        return draw_table(repr(self), ["prompt", "verdict", "answer"], rows[:SHOWN])


def score(
    chat: ChatModel,
    prompts: Prompts,
    *,
    judge: str | Judge = "refusal",
    answer_tokens: int = 64,
    batch_tokens: BatchTokens = "auto",
    progress: Progress = automatic,
) -> AnswerScores:
    """Answer prompts greedily, and judge whether each answer refuses. Inside `edit.hooks(chat)` the
    answers are those of the edit.

    It is a look, on prompts that you may have learned from; `vectomy.evaluate_models` measures on
    held-out sets, with side effects and controls.

    Args:
        prompts: texts, `Prompt` values or lists of messages; the chat template is applied.
        judge: as `--judge`: a name, openai:URL[#MODEL], hf:ID, or a `Judge`.
        answer_tokens: most tokens of an answer.

    Raises:
        UsageError: no `ChatModel`, no such judge, or `answer_tokens` below 1.
        PromptError: no prompts.
        JudgeError: the judge is not reached, or cannot read what it gets.
    """
    require_chat(chat)
    asked = as_prompts(prompts)
    if not asked:
        raise PromptError("there are no prompts; give a list such as ['How do I bake bread?']")
    if require(answer_tokens, int, "answer_tokens", "give a number of tokens") < 1:
        raise UsageError(f"answer_tokens is {answer_tokens}; give at least 1")
    opened = open_judge(judge) if isinstance(judge, str) else require(judge, Judge, "the judge", "name one")
    tokens = chat.answer(chat.tokens(asked), answer_tokens, batch_tokens, progress)
    texts = [chat.text(answer) for answer in tokens]
    judged = judge_all(opened, asked, texts)
    return AnswerScores(
        tuple(asked),
        tuple(texts),
        tuple(row.verdict for row in judged),
        tuple(row.p_refusal for row in judged),
        opened.name,
    )
