"""Rows that the models make themselves: the base's own answers to harmless prompts, and the edited
model's beside them.

Learning them brings the edited model back to what the base says, and nothing else: no other model's
style, no new data. The answers are the very tokens that the base chose, ended where it ended them
and cut where it was cut.
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
    """Pairs from answers as token ids, chosen the base's and rejected the edited model's; and the
    same as text.

    Args:
        edited: None where only the chosen answers are learned.

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
        rows.append(Preference(prompt, chat.text(ours), None if edited is None else chat.text(theirs)))
    if not pairs:
        raise PromptError(
            f"the edited model answers all {len(prompts)} prompts as the base does: there is no damage to heal on them. Use other "
            "prompts (--prompts SRC), or longer answers (--own-tokens)"
        )
    return pairs, Preferences(tuple(rows), {EQUAL: equal} if equal else {})
