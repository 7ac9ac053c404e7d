"""Whether an answer shows a trait. Each scorer says in a sentence what it goes by; every report
repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from vectomy.data.prompts import Prompt
from vectomy.data.trait_context import in_context
from vectomy.data.trait_file import ScorerSpec, Trait
from vectomy.models import ChatModel, Example, pack_examples

__all__ = ["LengthScorer", "LexiconScorer", "LogOddsScorer", "Scorer", "log_odds", "scorer_of"]

# Labels whose distributions are held at once.
CHUNK = 256


@runtime_checkable
class Scorer(Protocol):
    name: str
    note: str

    def shown(
        self, texts: Sequence[str], prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> list[bool]:
        """By answer (as text, with the plain text of its prompt, and as tokens): does it show the
        trait?
        """
        ...


class LexiconScorer:
    """At least so many different words of a list, case and apostrophes apart."""

    name = "lexicon"

    def __init__(self, spec: ScorerSpec) -> None:
        joined = "|".join(spec.patterns)
        self.pattern = re.compile(
            rf"\b(?:{joined})" + r"(?!\w)" if spec.whole_words else joined, re.IGNORECASE
        )
        self.at_least = spec.at_least
        words = f"{spec.at_least} different ones" if spec.at_least > 1 else "one"
        self.note = f"answers that hold at least {words} of {len(spec.patterns)} patterns"

    def shown(
        self, texts: Sequence[str], prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> list[bool]:
        return [self.count(text) >= self.at_least for text in texts]

    def count(self, text: str) -> int:
        plain = text.replace("\u2019", "'").casefold()
        return len({match.group(0) for match in self.pattern.finditer(plain)})


class LengthScorer:
    """At least so many tokens."""

    name = "length"

    def __init__(self, spec: ScorerSpec) -> None:
        self.at_least = spec.at_least
        self.note = f"answers of at least {spec.at_least} tokens"

    def shown(
        self, texts: Sequence[str], prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> list[bool]:
        return [len(answer) >= self.at_least for answer in answers]


class LogOddsScorer:
    """The base finds the answer likelier in the positive context than in the negative one, by more
    than a threshold.

    It asks the base as it is: not to be used within an edit's hooks.
    """

    name = "log_odds"

    def __init__(self, chat: ChatModel, trait: Trait, threshold: float, batch_tokens: int) -> None:
        self.chat, self.trait, self.threshold, self.batch_tokens = chat, trait, threshold, batch_tokens
        self.note = (
            f"answers whose mean log-odds under the two contexts are above {threshold:.3g} nats a token"
        )

    def shown(
        self, texts: Sequence[str], prompts: Sequence[str], answers: Sequence[Sequence[int]]
    ) -> list[bool]:
        sides = [in_context(prompts, context) for context in (self.trait.positive, self.trait.negative)]
        return [odds > self.threshold for odds in log_odds(self.chat, *sides, answers, self.batch_tokens)]


@torch.inference_mode()
def log_odds(
    chat: ChatModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    batch_tokens: int,
) -> list[float]:
    """log p(answer | positive context) - log p(answer | negative one), in nats a token, by answer."""
    sides = []
    for prompts in (positive, negative):
        examples = [
            Example(row, ids, [answer])
            for row, (ids, answer) in enumerate(zip(chat.tokens(prompts), answers, strict=True))
        ]
        found = [0.0] * len(answers)
        for one in pack_examples(chat, examples, batch_tokens, packed=False):
            states = one.predicting(chat.hidden(one))
            for at in range(0, len(states), CHUNK):
                part = slice(at, at + CHUNK)
                likely = chat.log_probs(states[part]).gather(-1, one.labels[part, None])[:, 0].tolist()
                for answer, value in zip(one.answer[part].tolist(), likely, strict=True):
                    found[one.rows[answer]] += value
        sides.append(found)
    return [(yes - no) / len(answer) for yes, no, answer in zip(*sides, answers, strict=True)]


def scorer_of(
    chat: ChatModel,
    trait: Trait,
    styled: tuple[Sequence[str], Sequence[Sequence[int]]],
    plain: Sequence[Sequence[int]],
    batch_tokens: int,
) -> Scorer:
    """The trait's scorer. That of log-odds takes for its threshold the middle between the base's
    own answers in both contexts.

    Args:
        styled: fit prompts and the base's answers in the positive context; `plain` those in the
            negative one.
    """
    if trait.scorer.kind == "lexicon":
        return LexiconScorer(trait.scorer)
    if trait.scorer.kind == "length":
        return LengthScorer(trait.scorer)
    texts, answers = styled
    sides = [in_context(texts, context) for context in (trait.positive, trait.negative)]
    odds = [log_odds(chat, sides[0], sides[1], side, batch_tokens) for side in (answers, plain)]
    return LogOddsScorer(chat, trait, sum(sum(side) / len(side) for side in odds) / 2, batch_tokens)
