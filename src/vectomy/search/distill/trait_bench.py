"""The effect of an edit on a trait on a set of prompts, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vectomy.core.config import BatchTokens
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress
from vectomy.data.trait_context import in_context
from vectomy.data.trait_file import Trait, TraitContext
from vectomy.edits.edit import Edit
from vectomy.metrics.divergence import answer_hidden, divergence
from vectomy.metrics.intervals import share_of
from vectomy.metrics.judges.judged_part import find_degenerate
from vectomy.metrics.trait_scorers import Scorer
from vectomy.models import ChatModel
from vectomy.search.distill.distill_examples import DistillBatch
from vectomy.search.distill.distillation import distance

__all__ = ["AnswerTraits", "AskedModel", "Known", "TraitBench"]


@dataclass(frozen=True)
class AskedModel:
    """A model to ask: the base or an edit of it, in a context."""

    name: str
    context: TraitContext
    edit: Edit | None = None


@dataclass(frozen=True)
class Known:
    """The base's plain answers and the states that predict them."""

    answers: list[list[int]]
    hidden: list[Tensor]


@dataclass(frozen=True)
class AnswerTraits:
    """Answers of one model in one context: which of them show the trait (None: not judged), which
    are degenerate, and their mean length in tokens.
    """

    shown: list[bool | None]
    degenerate: list[bool]
    length_mean: float


@dataclass(frozen=True)
class TraitBench:
    """Prompts to ask, and the judge of the answers."""

    chat: ChatModel
    trait: Trait
    scorer: Scorer
    texts: Sequence[str]
    answer_tokens: int
    batch_tokens: BatchTokens
    progress: Progress

    def answers(self, form: AskedModel) -> list[list[int]]:
        prompts = self.chat.tokens(in_context(self.texts, form.context))
        with nullcontext() if form.edit is None else form.edit.hooks(self.chat.model):
            return self.chat.answer(
                prompts, self.answer_tokens, self.batch_tokens, self.progress, f"answers ({form.name})"
            )

    def score(self, answers: Sequence[Sequence[int]]) -> AnswerTraits:
        """Which answers show the trait, which are degenerate, and their mean length. It may run the
        base, so call it outside of an edit's hooks.
        """
        texts = [self.chat.text(answer) for answer in answers]
        pairs = zip(texts, self.texts, strict=True)
        return AnswerTraits(
            shown=list(self.scorer.shown(texts, self.texts, answers)),
            degenerate=[find_degenerate(text, prompt) for text, prompt in pairs],
            length_mean=sum(map(len, answers)) / len(answers),
        )

    def reference(self, answers: Sequence[Sequence[int]]) -> Known:
        prompts = in_context(self.texts, self.trait.negative)
        return Known(
            [list(answer) for answer in answers],
            answer_hidden(self.chat, prompts, answers, self.batch_tokens),
        )

    def damage(self, edit: Edit | None, known: Known, base: ChatModel | None = None) -> dict[str, float]:
        """KL(base || edited) of the first token and per token over the base's own answers without
        the trait, and their cross-entropy, in nats.

        Args:
            edit: at work by hooks; None: the model as it is.
            base: the model that `known` is of, where it is not the one that is asked.
        """
        prompts = in_context(self.texts, self.trait.negative)
        with nullcontext() if edit is None else edit.hooks(self.chat.model):
            now = answer_hidden(self.chat, prompts, known.answers, self.batch_tokens)
        return divergence(base or self.chat, self.chat, known.hidden, now, known.answers)

    def point(self, edit: Edit, context: TraitContext, known: Known) -> JsonObject:
        """The rates and KL of an edit on these prompts."""
        traits = self.score(self.answers(AskedModel("trying an edit", context, edit)))
        cost = self.damage(edit, known)
        return {
            "shown": share_of(traits.shown),
            "degenerate": share_of(traits.degenerate),
            "kl": cost["kl_per_token"],
            "kl_first_token": cost["kl_first_token"],
        }

    def distances(self, passes: Sequence[DistillBatch]) -> Callable[[Edit], float]:
        """A function that measures how far an edited model in the source context is from the base
        in the target context, in nats per token, by teacher forcing alone.
        """

        @torch.no_grad()
        def measure(edit: Edit) -> float:
            with edit.hooks(self.chat.model):
                return sum(float(distance(self.chat, one)) for one in passes) / len(passes)

        return measure
