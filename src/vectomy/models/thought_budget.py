"""Answers of a model that thinks, with tokens for the thought apart from those for the answer.

A thought that spends its tokens is closed by the tokens of its template, as the authors of Qwen 3
do it (arXiv 2505.09388, section 4.4), and the model answers from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vectomy.data.thoughts import closing_of, split_thoughts

if TYPE_CHECKING:
    from vectomy.models.chat import ChatModel

__all__ = ["Decode", "answer_behind_thoughts"]

Decode = Callable[[Sequence[Sequence[int]], int], list[list[int]]]
"""Greedy answers to prompts of token ids, of at most so many tokens."""


def answer_behind_thoughts(
    chat: ChatModel,
    tokens: Sequence[Sequence[int]],
    thought_tokens: int,
    answer_tokens: int,
    decode: Decode,
) -> list[list[int]]:
    """Greedy answers: a thought of at most `thought_tokens`, without its closing, and behind it at
    most `answer_tokens`. An answer without a thought has `answer_tokens` as well.
    """
    answers = [_close(chat, answer, answer_tokens) for answer in decode(tokens, thought_tokens)]
    rest = [_count_rest(chat, answer, answer_tokens) for answer in answers]
    rows = [row for row, count in enumerate(rest) if count > 0]
    if rows:
        begun = [[*tokens[row], *answers[row]] for row in rows]
        for row, more in zip(rows, decode(begun, max(rest)), strict=True):
            answers[row] += more[: rest[row]]
    return answers


def _close(chat: ChatModel, answer: list[int], answer_tokens: int) -> list[int]:
    """An answer with its open thought closed, and not longer than it may be."""
    closing = closing_of(chat.text(answer))
    if closing is not None and not _has_ended(chat, answer):
        return answer + list(chat.tokenizer(closing, add_special_tokens=False)["input_ids"])
    start = chat.final_start(answer)
    return answer if start is None else answer[: start + answer_tokens]


def _count_rest(chat: ChatModel, answer: Sequence[int], answer_tokens: int) -> int:
    """How many tokens the final part may still get."""
    if _has_ended(chat, answer) or not split_thoughts(chat.text(answer)).finished:
        return 0
    start = chat.final_start(answer)
    return answer_tokens if start is None else answer_tokens - (len(answer) - start)


def _has_ended(chat: ChatModel, answer: Sequence[int]) -> bool:
    return bool(answer) and answer[-1] in chat.end_tokens
