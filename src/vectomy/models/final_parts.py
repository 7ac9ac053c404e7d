"""Answers without their thoughts, as tokens: what is learned or scored is the final part, behind
the thought that the model had before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vectomy.models.chat import ChatModel

__all__ = ["FinalPart", "find_final_parts"]


@dataclass(frozen=True)
class FinalPart:
    """The tokens of an answer behind its thought, and those before: the prompt, then the thought.

    Attributes:
        thinks: the answer has a thought.
    """

    prompt: list[int]
    answer: list[int]
    thinks: bool


def find_final_parts(
    chat: ChatModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[FinalPart | None]:
    """The final part of each answer; None where it ends inside the thought.

    Args:
        prompts: token ids of the prompt of each answer.
    """
    starts = [chat.final_start(answer) for answer in answers]
    return [
        None if start is None else FinalPart([*ids, *answer[:start]], list(answer[start:]), start > 0)
        for start, ids, answer in zip(starts, prompts, answers, strict=True)
    ]
