"""Answers as text: like other decoders, but the tokens that set a thought apart stay in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vectomy.data.thoughts import CHANNEL, HARMONY, MARKERS, TAGS, split_thoughts, strip_frame

__all__ = ["decode_answer", "find_final_part", "find_opened_thought"]


def decode_answer(tokenizer: Any, answer: Sequence[int]) -> str:
    """The text of an answer without special tokens, except those around thoughts: many tokenizers
    call them special, and without them thought and answer run into each other.
    """
    special = {int(token) for token in tokenizer.all_special_ids}
    names = {token: str(tokenizer.convert_ids_to_tokens(token)) for token in special.intersection(answer)}
    known = MARKERS | HARMONY if CHANNEL in names.values() else MARKERS
    kept = {token for token, name in names.items() if name in known}
    if not kept:
        return str(tokenizer.decode(list(answer), skip_special_tokens=True)).strip()
    shown = [token for token in answer if token in kept or token not in special]
    return str(tokenizer.decode(shown, skip_special_tokens=False)).strip()


def find_final_part(answer: Sequence[int], text: str, decode: Callable[[Sequence[int]], str]) -> int | None:
    """The index of the first token behind the thoughts of an answer: 0 without thoughts, None where
    nothing follows them or the answer ends inside of one.

    Args:
        text: the whole answer as text, with the tag that the template opened.
        decode: gives the text of a part of the tokens.
    """
    split = split_thoughts(text)
    if split.answer == text:
        return 0
    if not split.finished or not split.answer:
        return None
    # The text of the tokens from an index on is an end of the final part from where that begins.
    first, last = 0, len(answer)
    while first < last:
        middle = (first + last) // 2
        # A letter of several tokens may be cut in two.
        rest = strip_frame(decode(answer[middle:])).lstrip("\ufffd")
        if split.answer.endswith(rest):
            last = middle
        else:
            first = middle + 1
    while first < len(answer) and not decode(answer[first : first + 1]):
        first += 1
    return first if first < len(answer) else None


def find_opened_thought(rendered: str) -> str:
    """The opening tag with which a rendered prompt ends, so that the answer begins inside a
    thought; else an empty text.
    """
    end = rendered.rstrip()
    analysis = f"{CHANNEL}analysis<|message|>"
    return next((tag for tag in (*(opening for opening, _ in TAGS), analysis) if end.endswith(tag)), "")
