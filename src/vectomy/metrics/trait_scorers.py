"""Scorers: whether an answer shows a trait. Each describes its criterion in a sentence, which every
report repeats. All read the final part of an answer alone, never its thoughts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch

from vectomy.core.config import BatchTokens
from vectomy.core.errors import BehaviourAbsentError
from vectomy.data.prompts import Prompt
from vectomy.data.thoughts import split_thoughts
from vectomy.data.trait_context import in_context
from vectomy.data.trait_file import ScorerSpec, Trait
from vectomy.models import ChatModel, Example, find_final_parts, pack_examples
from vectomy.models.label_scores import score_labels

__all__ = ["LengthScorer", "LexiconScorer", "LogOddsScorer", "Scorer", "log_odds", "scorer_of"]


@runtime_checkable
class Scorer(Protocol):
    name: str
    note: str

    def shown(
        self, texts: Sequence[str], prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> list[bool | None]:
        """For each answer, whether it shows the trait; None where it ends inside its thought.

        Args:
            texts: the answers as text; `answers` has them as tokens.
            prompts: the plain text of each prompt.
        """
        ...


class LexiconScorer:
    """An answer shows the trait with at least `at_least` different words of a list,
    ignoring case.
    """

    name = "lexicon"

    def __init__(self, spec: ScorerSpec) -> None:
        joined = "|".join(spec.patterns)
        self.pattern = re.compile(
            rf"\b(?:{joined})" + r"(?!\w)" if spec.whole_words else joined, re.IGNORECASE
        )
        self.at_least = spec.at_least
        words = f"{spec.at_least} different ones" if spec.at_least > 1 else "one"
        known = len(spec.patterns)
        self.note = (
            "answers that contain its pattern"
            if known == 1
            else f"answers that contain at least {words} of {known} patterns"
        )

    def shown(
        self, texts: Sequence[str], prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> list[bool | None]:
        splits = [split_thoughts(text) for text in texts]
        return [self.count(split.answer) >= self.at_least if split.finished else None for split in splits]

    def count(self, text: str) -> int:
        plain = text.replace("\u2019", "'").casefold()
        return len({match.group(0) for match in self.pattern.finditer(plain)})


class LengthScorer:
    """An answer shows the trait with at least `at_least` tokens behind its thought."""

    name = "length"

    def __init__(
        self, spec: ScorerSpec, final_start: Callable[[Sequence[int]], int | None] = lambda answer: 0
    ) -> None:
        """`final_start` gives the first token of an answer behind its thought."""
        self.final_start, self.at_least = final_start, spec.at_least
        self.note = f"answers of at least {spec.at_least} tokens"

    def shown(
        self, texts: Sequence[str], prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> list[bool | None]:
        starts = [self.final_start(answer) for answer in answers]
        return [
            None if start is None else len(answer) - start >= self.at_least
            for start, answer in zip(starts, answers, strict=True)
        ]


class LogOddsScorer:
    """An answer shows the trait if the base finds it likelier in the positive context than in the
    negative one, by more than a threshold.

    Do not use it inside an edit's hooks: it must run the unedited base.
    """

    name = "log_odds"

    def __init__(self, chat: ChatModel, trait: Trait, threshold: float, batch_tokens: BatchTokens) -> None:
        self.chat, self.trait, self.threshold, self.batch_tokens = chat, trait, threshold, batch_tokens
        self.note = (
            f"answers whose mean log-odds under the two contexts are above {threshold:.3g} nats a token"
        )

    def shown(
        self, texts: Sequence[str], prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> list[bool | None]:
        sides = [in_context(prompts, context) for context in (self.trait.positive, self.trait.negative)]
        odds = log_odds(self.chat, *sides, answers, self.batch_tokens)
        return [None if value is None else value > self.threshold for value in odds]


@torch.inference_mode()
def log_odds(
    chat: ChatModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    batch_tokens: BatchTokens,
) -> list[float | None]:
    """log p(answer | positive context) - log p(answer | negative context) of each answer, in nats
    per token of the final part, behind the thought in either context; None without a final part.
    """
    sides = []
    for prompts in (positive, negative):
        parts = find_final_parts(chat, chat.tokens(prompts), answers)
        examples = [
            Example(row, part.prompt, [part.answer]) for row, part in enumerate(parts) if part is not None
        ]
        total = [0.0] * len(answers)
        for batch in pack_examples(chat, examples, batch_tokens, packed=False):
            likely = score_labels(chat, batch.predicting(chat.hidden(batch)), batch.labels).tolist()
            for answer, value in zip(batch.answer.tolist(), likely, strict=True):
                total[batch.rows[answer]] += value
        sides.append(total)
    return [
        None if part is None else (yes - no) / len(part.answer)
        for yes, no, part in zip(*sides, parts, strict=True)
    ]


def scorer_of(
    chat: ChatModel,
    trait: Trait,
    styled: tuple[Sequence[str], Sequence[Sequence[int]]],
    plain: Sequence[Sequence[int]],
    batch_tokens: BatchTokens,
) -> Scorer:
    """The trait's scorer. The threshold of log-odds is the midpoint of the base's own answers in
    the two contexts.

    Args:
        styled: fit prompts and the base's answers in the positive context; `plain` those in the
            negative one.

    Raises:
        BehaviourAbsentError: no answer of a side has a final part, where log-odds are asked for.
    """
    if trait.scorer.kind == "lexicon":
        return LexiconScorer(trait.scorer)
    if trait.scorer.kind == "length":
        return LengthScorer(trait.scorer, chat.final_start)
    texts, answers = styled
    sides = [in_context(texts, context) for context in (trait.positive, trait.negative)]
    odds = [
        [value for value in log_odds(chat, sides[0], sides[1], side, batch_tokens) if value is not None]
        for side in (answers, plain)
    ]
    if not all(odds):
        raise BehaviourAbsentError(
            "every answer in one of the two contexts ends inside its thought, so nothing can be scored; "
            "raise --answer-tokens"
        )
    return LogOddsScorer(chat, trait, sum(sum(side) / len(side) for side in odds) / 2, batch_tokens)
