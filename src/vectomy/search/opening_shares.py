"""Whether an edit leaves a behaviour, from the likelihood of openings instead of from answers.

Generating an answer runs the model once for each token, which is too much for a model that is read
from disk each time. One teacher-forced pass gives the probability that the answer opens as the
base's own answers that show the behaviour do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vectomy.data.prompts import Prompt
from vectomy.edits.edit import Edit
from vectomy.metrics.intervals import share_of_most
from vectomy.models import ChatModel, Example, TeacherForcedBatch, find_final_parts, pack_examples
from vectomy.models.label_scores import score_labels
from vectomy.search.edited_passes import run_base, run_edited

__all__ = ["OpeningEvaluator"]

# Tokens of an opening, and the openings of a prompt: its own, and the most frequent others.
OPENING, MOST_OPENINGS = 4, 8
# An edit leaves the behaviour where the openings keep this share of the probability that the base
# gives them.
LEFT = 0.5
# Tokens of a pack.
PACK = 512


class OpeningEvaluator:
    """The openings of a prompt set, and their probabilities under the base. It holds no model, so
    that another one can be measured when the base's memory is given back.

    Args:
        chat: the base.
        answers: the base's greedy tokens.
        shows: whether each answer shows the behaviour; None: it has no verdict.
        layer: where passes resume; the edits must not touch anything below.
    """

    def __init__(
        self,
        chat: ChatModel,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[int]],
        shows: Sequence[bool | None],
        packed: bool,
        layer: int = 0,
    ) -> None:
        self.layer, self.shows = layer, list(shows)
        parts = find_final_parts(chat, chat.tokens(prompts), answers)
        own = {
            row: tuple(part.answer[:OPENING])
            for row, (part, shown) in enumerate(zip(parts, shows, strict=True))
            if part is not None and shown and part.answer
        }
        frequent = [opening for opening, _ in Counter(own.values()).most_common(MOST_OPENINGS)]
        examples = [
            Example(row, part.prompt, list(dict.fromkeys([own[row], *frequent]))[:MOST_OPENINGS])
            for row, part in enumerate(parts)
            if part is not None and row in own
        ]
        order = sorted(examples, key=lambda example: len(example.prompt))
        self.passes = pack_examples(chat, order, PACK, packed=packed)
        with torch.inference_mode():
            self.streams, states = run_base(chat, self.passes, layer)
            self.base = self._sum_probabilities(chat, states)

    @torch.inference_mode()
    def kept_shares(self, chat: ChatModel, edits: Sequence[Edit]) -> list[dict[int, float]]:
        """For each edit of the base, by prompt: the probability of all openings, as a share of the
        base's.
        """
        states = list(run_edited(chat, self.passes, self.streams, edits, self.layer))
        return [
            self._divide(self._sum_probabilities(chat, [of_batch[index] for of_batch in states]))
            for index in range(len(edits))
        ]

    @torch.inference_mode()
    def kept_by(self, chat: ChatModel) -> dict[int, float]:
        """The same for another model, such as a baked one."""
        _, states = run_base(chat, self.passes, 0)
        return self._divide(self._sum_probabilities(chat, states))

    def leaves(self, kept: Mapping[int, float]) -> list[bool | None]:
        """For each prompt, whether the behaviour is left; None: the base's answer has no verdict.

        Args:
            kept: of `kept_shares` or `kept_by`.
        """
        return [None if shown is None else kept.get(row, 0.0) >= LEFT for row, shown in enumerate(self.shows)]

    def _divide(self, sums: Mapping[int, float]) -> dict[int, float]:
        return {row: value / self.base[row] for row, value in sums.items()}

    def rates(self, chat: ChatModel, edits: Sequence[Edit]) -> list[float | None]:
        """For each edit of the base, the share of all prompts on which the behaviour is left; None
        if most of the base's answers have no verdict.
        """
        return [share_of_most(self.leaves(kept)) for kept in self.kept_shares(chat, edits)]

    def _sum_probabilities(self, chat: ChatModel, states: Sequence[Tensor]) -> dict[int, float]:
        """By prompt, the probability that an answer begins with one of its openings."""
        result: dict[int, float] = {}
        for batch, hidden in zip(self.passes, states, strict=True):
            for row, value in zip(batch.rows, _find_probabilities(chat, batch, hidden), strict=True):
                result[row] = result.get(row, 0.0) + value
        return result


def _find_probabilities(chat: ChatModel, batch: TeacherForcedBatch, hidden: Tensor) -> list[float]:
    """The probability of each answer of a pass."""
    log_probs = score_labels(chat, hidden, batch.labels).double().cpu()
    whole = torch.zeros(len(batch.first), dtype=torch.float64).index_add(0, batch.answer.cpu(), log_probs)
    return list(whole.exp().tolist())
