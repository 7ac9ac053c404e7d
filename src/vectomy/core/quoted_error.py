"""What another library says of its error, short enough for a sentence of ours. Loads no torch."""

from __future__ import annotations

import re

__all__ = ["quote_error"]

# A full stop inside a name or a number ends no sentence.
SENTENCE_END = re.compile(r"[.!?]['\")\]]*(?=\s|$)")


def quote_error(error: BaseException | str, width: int = 200) -> str:
    """The sentences at the beginning of a message, on one line, as many as `width` has room for.

    The last full stop is left out. A first sentence that is longer is cut behind a word, and dots
    say so. An error without a message is its type.
    """
    first_part = re.split(r"\n\s*\n", str(error).strip())[0]
    text = " ".join(first_part.split())
    if not text:
        return type(error).__name__ if isinstance(error, BaseException) else "no message"
    if len(text) <= width:
        return text.rstrip(".")
    ends = [match.end() for match in SENTENCE_END.finditer(text) if match.end() <= width]
    if ends:
        return text[: ends[-1]].rstrip(".")
    words = text[: width - 1].rsplit(" ", 1)[0].rstrip(" ,;:(")
    return f"{words} …"
