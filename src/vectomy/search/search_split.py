"""Measures Edits on the search prompts: KL in one pass, the behaviour by generating."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.ranks import current_ranks
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import Edit
from vectomy.metrics.intervals import share_of_most
from vectomy.metrics.judges import refuses
from vectomy.metrics.judges.judged_part import find_degenerate
from vectomy.models import Example, pack_examples, packs_exactly
from vectomy.models.label_scores import chunk_labels, kl_divergence
from vectomy.search.edited_passes import run_base, run_edited
from vectomy.search.opening_shares import OpeningEvaluator
from vectomy.search.recipe import RecipeInput

__all__ = ["MEASURED", "PACK", "AnswerShares", "SearchSplitEvaluator"]

# KL is measured over this many tokens of each base answer.
MEASURED = 32
# Tokens of a pack. The mask lets rows see each other's tokens, so short packs are cheaper.
PACK = 512
# Without a judge, an answer shows the behaviour if it opens with the same tokens as the base's.
SAME_OPENING = 4


class _PassSums(NamedTuple):
    """KL of a pass in nats by Edit, summed over its tokens and over the first ones; and how many
    there are.
    """

    every: list[float]
    first: list[float]
    tokens: int
    answers: int


class AnswerShares(NamedTuple):
    """Shares of the answers to the positive search prompts."""

    rate: float | None
    """Those that show the behaviour; None if most answers could not be judged."""
    degenerate: float | None
    """Those that go in circles; None where no answers were generated."""


class SearchSplitEvaluator:
    """Measures Edits on the search split of a task. Passes resume at `layer`; the Edits must not
    touch anything below it. The passes are shared by the ranks.

    Args:
        checked: the longest example, in tokens, for which the model is known to allow packs.
    """

    def __init__(self, task: RecipeInput, packed: bool, layer: int, checked: int | None = None) -> None:
        self.task, self.layer, chat = task, layer, task.chat
        prompts = chat.tokens(task.negative["search"])
        examples = [
            Example(row, ids, [answer[:MEASURED]])
            for row, (ids, answer) in enumerate(zip(prompts, task.answers["negative"], strict=True))
        ]
        order = sorted(examples, key=lambda example: len(example.prompt) + len(example.answers[0]))
        tokens = task.config.runtime.batch_tokens
        longer = checked is not None and any(example.longest > checked for example in examples)
        packed = packed and (not longer or packs_exactly(chat, order))
        passes = pack_examples(chat, order, tokens, packed=packed, most=PACK if packed else None)
        self.count = len(passes)
        share = current_ranks().share(enumerate(passes))
        self.places, self.passes = [place for place, _ in share], [batch for _, batch in share]
        self.packed = packed
        with torch.inference_mode():
            self.streams, self.base = run_base(chat, self.passes, layer)

    @torch.inference_mode()
    def divergence(self, edits: Sequence[Edit]) -> list[dict[str, float]]:
        """KL(base || edited) in nats on the base's own answers: `kl` per token, and
        `kl_first_token` as evaluation measures it.

        Each pass runs all edits in turn, so that the base's distributions are computed once.
        """
        sums: dict[int, _PassSums] = {}
        with self.task.progress("KL on the search prompts", self.count, "passes") as update:
            edited = run_edited(self.task.chat, self.passes, self.streams, edits, self.layer)
            for place, batch, base, states in zip(self.places, self.passes, self.base, edited, strict=True):
                divergences = self._divergences(base, states)
                sums[place] = _PassSums(
                    [float(kl.sum()) for kl in divergences],
                    [float(kl[batch.first.to(kl.device)].sum()) for kl in divergences],
                    len(base),
                    len(batch.first),
                )
                update(1)
            results = current_ranks().merge(sums)
            update(self.count - len(self.passes))
        # Always added in the same order.
        passes = [results[place] for place in range(self.count)]
        tokens, answers = sum(part.tokens for part in passes), sum(part.answers for part in passes)
        return [
            {
                "kl": sum(part.every[index] for part in passes) / tokens,
                "kl_first_token": sum(part.first[index] for part in passes) / answers,
            }
            for index in range(len(edits))
        ]

    def _divergences(self, base: Tensor, edited: Sequence[Tensor]) -> list[Float[Tensor, " label"]]:
        chat = self.task.chat
        parts: list[list[Tensor]] = [[] for _ in edited]
        for chunk in chunk_labels(len(base), chat.architecture.vocab):
            log_probs = chat.log_probs(base[chunk])
            for part, hidden in zip(parts, edited, strict=True):
                part.append(kl_divergence(log_probs, chat.log_probs(hidden[chunk])))
        # MPS has no float64.
        return [torch.cat(part).cpu().double() for part in parts]

    @cached_property
    def openings(self) -> OpeningEvaluator:
        """The openings of the base's answers to the positive search prompts."""
        prompts, answers = self.task.positive["search"], self.task.answers["positive"]
        shows = [self._shows(prompt, own, own) for prompt, own in zip(prompts, answers, strict=True)]
        return OpeningEvaluator(self.task.chat, prompts, answers, shows, self.packed, self.layer)

    def measure(self, edit: Edit) -> AnswerShares:
        """The shares of an Edit, from its own answers to the positive search prompts."""
        prompts, base = self.task.positive["search"], self.task.answers["positive"]
        answers = self._answer(edit, prompts, "trying an edit")
        return AnswerShares(self._share_shown(prompts, answers, base), self._share_degenerate(answers))

    @cached_property
    def base_degenerate(self) -> float:
        """Share of the base's answers to the positive search prompts that go in circles."""
        return self._share_degenerate(self.task.answers["positive"])

    def preserved_rate(self, edit: Edit | None, answers: Sequence[Sequence[int]]) -> float | None:
        """Share of the preserve set's search prompts whose answer shows the behaviour; None if most
        answers could not be judged.

        Args:
            edit: None measures the base.
            answers: the base's answers.
        """
        assert self.task.preserve is not None
        prompts = self.task.preserve.search
        if edit is None:
            return self._share_shown(prompts, answers, answers)
        own = self._answer(edit, prompts, "trying an edit on the preserve set")
        return self._share_shown(prompts, own, answers)

    def _answer(self, edit: Edit, prompts: Sequence[Prompt], title: str) -> list[list[int]]:
        chat, c = self.task.chat, self.task.config
        with edit.hooks(chat.model):
            return chat.answer(
                chat.tokens(prompts), c.answer_tokens, c.runtime.batch_tokens, self.task.progress, title
            )

    def _share_shown(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], base: Sequence[Sequence[int]]
    ) -> float | None:
        return share_of_most([self._shows(*row) for row in zip(prompts, answers, base, strict=True)])

    def _share_degenerate(self, answers: Sequence[Sequence[int]]) -> float:
        prompts, text = self.task.positive["search"], self.task.chat.text
        flags = [
            find_degenerate(text(answer), prompt.text)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return sum(flags) / len(flags)

    def _shows(self, prompt: Prompt, answer: Sequence[int], base: Sequence[int]) -> bool | None:
        judge = self.task.judge
        if judge is None:
            return list(answer[:SAME_OPENING]) == list(base[:SAME_OPENING])
        return refuses(judge.verdict(prompt.text, self.task.chat.text(answer)))
