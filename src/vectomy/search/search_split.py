"""What an Edit does on the search prompts: the damage in one pass, the behaviour by generating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.data.prompts import Prompt
from vectomy.edits.edit import Edit
from vectomy.hooks.capture import capture
from vectomy.metrics.intervals import share_of
from vectomy.metrics.judges import REFUSALS
from vectomy.metrics.logits import kl_divergence
from vectomy.models import Example, TeacherForcedBatch, pack_examples, resume_at
from vectomy.search.recipe import RecipeInput

__all__ = ["SearchSplitEvaluator"]

# Tokens of each of the base's answers over which KL is measured here, and distributions held at
# once.
MEASURED = 32
CHUNK = 256
# Without a judge: an answer that opens like the base's shows the behaviour still.
SAME_OPENING = 4


class SearchSplitEvaluator:
    """Measures Edits on the search split of a task. They may touch nothing below `layer`: passes go
    on there.
    """

    def __init__(self, task: RecipeInput, packed: bool, layer: int) -> None:
        self.task, self.layer, chat = task, layer, task.chat
        prompts = chat.tokens(task.negative["search"])
        examples = [
            Example(row, ids, [answer[:MEASURED]])
            for row, (ids, answer) in enumerate(zip(prompts, task.answers["negative"], strict=True))
        ]
        order = sorted(examples, key=lambda example: len(example.prompt) + len(example.answers[0]))
        # Rows see each other's tokens in the mask: short packs are cheaper than long ones.
        self.passes = pack_examples(
            chat,
            order,
            min(task.config.runtime.batch_tokens, 512) if packed else task.config.runtime.batch_tokens,
            packed=packed,
        )
        self.base: list[Tensor] = []
        self.streams: list[Any] = []
        for one in self.passes:
            with capture(chat.model, ["resid_pre"], layers=[layer] if layer else []) as stream:
                self.base.append(self._hidden(one))
            self.streams.append(stream["resid_pre", layer] if layer else None)

    @torch.inference_mode()
    def _hidden(self, one: TeacherForcedBatch) -> Float[Tensor, "label d_model"]:
        return one.predicting(self.task.chat.hidden(one))

    @torch.inference_mode()
    def damage(self, edits: Sequence[Edit]) -> list[dict[str, float]]:
        """KL(base || edited) in nats on the base's own answers: per token, and of the first one (as
        evaluate.py has it).

        All edits take turns on each pass, so that the base's distributions are computed once for
        all of them.
        """
        chat = self.task.chat
        every, first = [0.0] * len(edits), [0.0] * len(edits)
        tokens, answers = 0, 0
        with (
            resume_at(chat, self.layer) as given,
            self.task.progress("damage on the search prompts", len(self.passes), "passes") as update,
        ):
            for one, base, stream in zip(self.passes, self.base, self.streams, strict=True):
                states = []
                for edit in edits:
                    given[:] = [stream]
                    with edit.hooks(chat.model):
                        states.append(self._hidden(one))
                for at, kl in enumerate(self._divergences(base, states)):
                    every[at] += float(kl.sum())
                    first[at] += float(kl[one.first].sum())
                tokens, answers = tokens + len(base), answers + len(one.first)
                update(1)
        return [{"kl": e / tokens, "kl_first_token": f / answers} for e, f in zip(every, first, strict=True)]

    def _divergences(self, base: Tensor, edited: Sequence[Tensor]) -> list[Float[Tensor, " label"]]:
        chat = self.task.chat
        parts: list[list[Tensor]] = [[] for _ in edited]
        for at in range(0, len(base), CHUNK):
            known = chat.log_probs(base[at : at + CHUNK])
            for found, now in zip(parts, edited, strict=True):
                found.append(kl_divergence(known, chat.log_probs(now[at : at + CHUNK])))
        return [torch.cat(found).double() for found in parts]

    def rate(self, edit: Edit) -> float:
        """Share of the positive search prompts whose answer shows the behaviour still."""
        return self._share(
            edit, self.task.positive["search"], self.task.answers["positive"], "trying an edit"
        )

    def held(self, edit: Edit | None, answers: Sequence[Sequence[int]]) -> float:
        """Share of the search prompts of `keep` whose answer shows it; of the base (`answers`)
        without an edit.
        """
        assert self.task.preserve is not None
        prompts = self.task.preserve.search
        if edit is None:
            return share_of([self._shows(p, a, a) for p, a in zip(prompts, answers, strict=True)])
        return self._share(edit, prompts, answers, "trying an edit on prompts to keep")

    def _share(
        self, edit: Edit, prompts: Sequence[Prompt], base: Sequence[Sequence[int]], what: str
    ) -> float:
        chat, c = self.task.chat, self.task.config
        with edit.hooks(chat.model):
            answers = chat.answer(
                chat.tokens(prompts), c.answer_tokens, c.runtime.batch_tokens, self.task.progress, what
            )
        return share_of([self._shows(*row) for row in zip(prompts, answers, base, strict=True)])

    def _shows(self, prompt: Prompt, answer: Sequence[int], base: Sequence[int]) -> bool:
        judge: Any = self.task.judge
        if judge is None:
            return list(answer[:SAME_OPENING]) == list(base[:SAME_OPENING])
        return judge.verdict(prompt.text, self.task.chat.text(answer)) in REFUSALS
