"""Words that are none: what a model says whose stream is damaged ("no-meal neveruptimeuptc c.c.d.c
thisThis").

A token is odd when it holds a character that could not be decoded, letters in an order that English
words do not have (three letters that trigrams.json lacks), words run together, or many marks. A
text is garbled when odd tokens make up a third of its letters, when one word is a third of its
words, or when there is something of both.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache, lru_cache
from importlib import resources

from vectomy.metrics.judges.language import language

__all__ = ["is_garbled", "trigrams_of"]

UNDECODED = "\ufffd"
# Code and formulas within a text, and addresses, paths and file names, are no words and no garble.
INSET = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|\$[^$\n]+\$", re.DOTALL)
ADDRESS = re.compile(
    r".*(?:://|@).+|(?:[A-Za-z]:)?[\\/]\w[\w.\\/-]+|[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|io|uk|gov|edu|py|js|txt|md)\b.*"
)
CODE_LINE = re.compile(
    r"^\s{4,}\S|[;{}]\s*$|^\s*(?:def|class|import|from|return|for|while|if|else|elif|try|print|#include|var|let|const|public|select|insert)\b.*[:;(){}=*]|^\s*[\w.\"']+\s*[:=]\s*[\w\"'\[{(]|^\s*[<\[{\\]|=>|\);?\s*$",
    re.IGNORECASE,
)
CODE_LINES = 0.3
AROUND = ".,;:!?\"'()[]{}*_`#-\u2013\u2014\u2026\u201c\u201d\u2018\u2019<>"
LETTERS = re.compile(r"[A-Za-z]+")
MARK = re.compile(r"[^\w\s]")
WORDS = re.compile(r"[^\W\d_]{2,}")
# Where words run together: "thisThe", "den,to", "cage3cape", "c.c.c." ("iPhone", "JavaScript" and
# "H2O" are words).
RUN_TOGETHER = re.compile(
    r"(?<=[a-z]{2})[A-Z](?=[a-z])|(?<=[a-z])[,;:!?)(]+(?=[a-z])|(?<=[A-Za-z]{2})\d+(?=[A-Za-z]{2})|(?<=[A-Za-z])/{2,}|[\"'_\]\[)(]{2,}"
)
BRAND = re.compile(r"[A-Z][a-z]+[A-Z][a-z]+")
# Points of a token, the more the less it is a word: for so many marks in it, so many letters, so
# many unknown rows of three letters. One point is a foreign word or a technical one.
MARKS, LONG, UNKNOWN = 3, 17, 2
# Odd tokens: so great a part of all letters, so many letters, so many points.
PART, FEWEST_LETTERS, POINTS = 0.35, 16, 4
# The commonest word beyond what "the" has in prose: so great a part of so many words.
PROSE, SAME, AMONG = 0.12, 0.24, 12


def is_garbled(text: str) -> bool:
    """Whether a text, English as far as can be told, is not made of words."""
    if UNDECODED in text.strip()[:-2]:
        return True
    prose = _prose(text)
    if _is_code(prose) or language(prose) not in (None, "en"):
        return False
    strange = [(sum(map(str.isalpha, token)), _oddness(token)) for token in prose.split()]
    odd = sum(count for count, points in strange if points)
    same = _sameness(prose)
    # Where one word comes up all the time, less is needed to say that the others are none.
    enough = POINTS if same < SAME / 2 else POINTS / 2
    counts = odd >= FEWEST_LETTERS and sum(points for _, points in strange) >= enough
    part = odd / sum(count for count, _ in strange) if counts else 0.0
    return part / PART + same / SAME >= 1


def _prose(text: str) -> str:
    """Without what is set into it, and without tables."""
    text = INSET.sub(" ", text) if "`" in text or "$" in text else text
    return "\n".join(line for line in text.splitlines() if line.count("|") < 2) if "|" in text else text


def _is_code(prose: str) -> bool:
    lines = [line for line in prose.splitlines() if line.strip()]
    return sum(CODE_LINE.search(line) is not None for line in lines) >= CODE_LINES * max(1, len(lines))


def _sameness(prose: str) -> float:
    words = WORDS.findall(prose.lower())
    most = Counter(words).most_common(1)[0][1] if len(words) >= AMONG else 0
    return max(0.0, most / max(1, len(words)) - PROSE)


@cache
def _known() -> frozenset[str]:
    held = json.loads(
        resources.files("vectomy").joinpath("metrics/judges/trigrams.json").read_text(encoding="utf-8")
    )
    return frozenset(held["trigrams"].split("|"))


def trigrams_of(word: str) -> list[str]:
    """Each three letters of a word in lower case, a space for its beginning and end."""
    padded = f" {word.lower()} "
    return [padded[at : at + 3] for at in range(len(padded) - 2)]


@lru_cache(maxsize=1 << 15)
def _oddness(token: str) -> int:
    """Points: 0 for a word, more the less it is one. Names and brands are spelled as they like."""
    core = token.strip(AROUND)
    if (
        not core.isascii()
        or not any(map(str.isalpha, core))
        or BRAND.fullmatch(core)
        or ADDRESS.fullmatch(core)
    ):
        return 0
    parts = [part for part in LETTERS.findall(core) if part.islower()]
    unknown = max((sum(three not in _known() for three in trigrams_of(part)) for part in parts), default=0)
    longest = max(map(len, parts), default=0)
    return (
        len(MARK.findall(core)) // MARKS
        + len(RUN_TOGETHER.findall(core))
        + unknown // UNKNOWN
        + longest // LONG
    )
