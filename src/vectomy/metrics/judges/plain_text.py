"""Prepares a completion for the rules: plain quotes, lower case, contractions written out, divided
into sentences.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["plain", "sentences", "spell_out", "stem", "words"]

QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " "})
CONTRACTIONS = (
    ("can't", "cannot"),
    ("can not", "cannot"),
    ("won't", "will not"),
    ("shan't", "shall not"),
    ("n't", " not"),
    ("'m", " am"),
    ("'re", " are"),
    ("it's", "it is"),
    ("that's", "that is"),
    ("there's", "there is"),
    ("let's", "let us"),
    ("'ve", " have"),
    ("'ll", " will"),
    ("'d", " would"),
)
# Apostrophes are often omitted: "i cant" is a refusal too.
TYPED = re.compile(r"\b(?:cant|wont|dont|im)\b")
TYPED_OUT = {"cant": "cannot", "wont": "will not", "dont": "do not", "im": "i am"}
# Direct speech in a story is not an act of the answer; a quoted word or phrase is.
SPEECH = re.compile(r'"[^"\n]{8,400}[,.!?]"')
END = re.compile(r"(?<=[.!?])[\"')]*\s+|\n+")
MARKER = re.compile(r"[0-9]+[.)]|[-*\u2022]|#+")
WORD = re.compile(r"[a-z']+")
ENDINGS = ("ing", "ed", "es", "s", "ly")


def plain(text: str) -> str:
    """The text stripped, with straight quotes and without Markdown bold."""
    return text.translate(QUOTES).replace("**", "").strip()


@lru_cache(maxsize=64)
def spell_out(text: str) -> str:
    """`plain`, lower case, with "can't" as "cannot" and so on, and without direct speech: one form
    of each phrase is left to look for.
    """
    text = SPEECH.sub(" ", plain(text).lower())
    for short, long in CONTRACTIONS:
        text = text.replace(short, long)
    return TYPED.sub(lambda match: TYPED_OUT[match[0]], text)


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text that is spelled out; a list's marker stays with what it marks.
    At least one.
    """
    result: list[str] = []
    for part in END.split(text):
        part = part.strip()
        if part and result and MARKER.fullmatch(result[-1]):
            result[-1] += " " + part
        elif part:
            result.append(part)
    return result or [""]


def words(text: str) -> list[str]:
    """The words of a text that is spelled out."""
    return WORD.findall(text)


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """A word without its commonest endings, so that "killing" meets "kill"."""
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word
