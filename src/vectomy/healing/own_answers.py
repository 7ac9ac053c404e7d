"""Preference pairs from the models' own answers to harmless prompts: chosen is the base's answer,
rejected the edited model's.

Training on them brings the edited model back to the base without another model's style or new data.
The answers are the exact tokens of the base, with its end of turn, or cut where it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from vectomy.core.errors import PromptError
from vectomy.data.preferences import Preference, Preferences
from vectomy.data.prompts import Prompt
from vectomy.healing.pairs import Pair
from vectomy.models import ChatModel

__all__ = ["EQUAL", "pair_own_answers"]

EQUAL = "an edited model's answer equal to the base's"


def pair_own_answers(
    chat: ChatModel,
    prompts: Sequence[Prompt],
    base: Sequence[Sequence[int]],
    edited: Sequence[Sequence[int]] | None,
) -> tuple[list[Pair], Preferences]:
    """Pairs of token ids, and the same pairs as text. Prompts with equal answers are left out.

    Args:
        base: token ids of the base's answers, one a prompt.
        edited: those of the edited model; None for objectives without a rejected answer.

    Raises:
        PromptError: the two models give the same answers to all prompts.
    """
    pairs: list[Pair] = []
    rows: list[Preference] = []
    equal = 0
    others = [()] * len(prompts) if edited is None else edited
    for prompt, ids, ours, theirs in zip(prompts, chat.tokens(prompts), base, others, strict=True):
        if list(ours) == list(theirs):
            equal += 1
            continue
        pairs.append(Pair(tuple(ids), tuple(ours), tuple(theirs)))
        chosen, rejected = (chat.decode(ids) for ids in (ours, theirs))
        rows.append(Preference(prompt, chosen, None if edited is None else rejected))
    if not pairs:
        raise PromptError(
            f"the edited model answers all {len(prompts)} prompts as the base does, so there is nothing "
            "to heal. Use other prompts (--prompts SRC) or longer answers (--own-tokens)"
        )
    return pairs, Preferences(tuple(rows), {EQUAL: equal} if equal else {})
