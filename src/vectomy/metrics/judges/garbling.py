"""Garbled text, as a model with damaged activations writes it ("no-meal neveruptimeuptc c.c.d.c
thisThis").

A token is odd if it contains an undecodable character, a sequence of three letters that English
words do not have (not in trigrams.json), words run together, or many punctuation marks. A text is
garbled if odd tokens have a third of its letters, if one word is a third of its words, or if it has
some of both.
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
# Code, formulas, addresses, paths and file names are neither words nor garbled.
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
# Words run together: "thisThe", "den,to", "cage3cape", "c.c.c."; but not "iPhone", "JavaScript",
# "H2O".
RUN_TOGETHER = re.compile(
    r"(?<=[a-z]{2})[A-Z](?=[a-z])|(?<=[a-z])[,;:!?)(]+(?=[a-z])|(?<=[A-Za-z]{2})\d+(?=[A-Za-z]{2})|(?<=[A-Za-z])/{2,}|[\"'_\]\[)(]{2,}"
)
BRAND = re.compile(r"[A-Z][a-z]+[A-Z][a-z]+")
# A token gets one point per MARKS punctuation marks, per LONG letters, and per UNKNOWN unknown
# trigrams. One point may be a foreign or technical word.
MARKS, LONG, UNKNOWN = 3, 17, 2
# Limits of odd tokens: share of all letters, number of letters, points.
PART, FEWEST_LETTERS, POINTS = 0.35, 16, 4
# Share of the commonest word beyond that of "the" in prose, and the fewest words to count.
PROSE, SAME, AMONG = 0.12, 0.24, 12


def is_garbled(text: str) -> bool:
    """Whether a text, apparently English, does not consist of words."""
    if UNDECODED in text.strip()[:-2]:
        return True
    prose = _prose(text)
    if _is_code(prose) or language(prose) not in (None, "en"):
        return False
    tokens = prose.split()
    strange = [(token, points) for token in tokens if (points := _oddness(token))]
    odd = sum(_count_letters(token) for token, _ in strange)
    same = _sameness(prose)
    # If one word occurs all the time, fewer points are enough.
    enough = POINTS if same < SAME / 2 else POINTS / 2
    counts = odd >= FEWEST_LETTERS and sum(points for _, points in strange) >= enough
    part = odd / sum(map(_count_letters, tokens)) if counts else 0.0
    return part / PART + same / SAME >= 1


def _count_letters(token: str) -> int:
    return len(token) if token.isalpha() else sum(map(str.isalpha, token))


def _prose(text: str) -> str:
    """The text without code, formulas and tables."""
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
    stored = json.loads(
        resources.files("vectomy").joinpath("metrics/judges/trigrams.json").read_text(encoding="utf-8")
    )
    return frozenset(stored["trigrams"].split("|"))


def trigrams_of(word: str) -> list[str]:
    """All runs of three letters of a word in lower case, with a space before and after it."""
    padded = f" {word.lower()} "
    return [padded[start : start + 3] for start in range(len(padded) - 2)]


def _count_unknown(word: str) -> int:
    known = _known()
    return sum(three not in known for three in trigrams_of(word))


@lru_cache(maxsize=1 << 15)
def _oddness(token: str) -> int:
    """Points: 0 for a word, more for less of one. Names and brands may have any spelling."""
    core = token.strip(AROUND)
    # Most tokens are words of plain letters, which have no marks and nothing run together.
    if core.isascii() and core.isalpha() and core.islower():
        return _count_unknown(core) // UNKNOWN + len(core) // LONG
    if (
        not core.isascii()
        or not any(map(str.isalpha, core))
        or BRAND.fullmatch(core)
        or ADDRESS.fullmatch(core)
    ):
        return 0
    parts = [part for part in LETTERS.findall(core) if part.islower()]
    unknown = max(map(_count_unknown, parts), default=0)
    longest = max(map(len, parts), default=0)
    return (
        len(MARK.findall(core)) // MARKS
        + len(RUN_TOGETHER.findall(core))
        + unknown // UNKNOWN
        + longest // LONG
    )
