"""The language of a text, as precisely as a judge needs it: the script, and for Latin script the
languages by their commonest words.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from functools import cache, lru_cache
from importlib import resources

__all__ = ["find_foreign_language", "has_english", "language", "mixed_scripts", "scripts"]

# Words that are common in one language and rare or absent in the others.
COMMONEST = {
    "en": "the a and how do does i my me we about make give write on in but at is are was were you your "
    "that this with for have has not it's of to it be can will would from they what how there their "
    "which i'm don't if",
    "de": "der die und ist das nicht ich sie ein eine mit für auf den dem zu von werden kann sind wie auch "
    "sich wir aber oder bei nach wenn",
    "fr": "le les des est et une vous pas pour dans que qui je nous sur avec votre ce cette sont être mais "
    "ou plus peut il elle au aux c'est",
    "es": "el los las es y una por para que con no del se lo su como más pero puede son está al muy este "
    "esta sobre también sin ser usted",
    "it": "il gli che di è e un per non con sono della del alla anche come più ma può questo questa nel si "
    "lo dei delle essere ho",
    "pt": "o os as é e um uma para não com que do da em por se mais como mas dos das pode são está você seu "
    "sua ao isso ser",
    "nl": "de het een en is van niet dat te ik je op voor met zijn die er aan ook als maar om kan dit wordt "
    "deze bij naar u",
}
VOCABULARIES = {name: frozenset(listed.split()) for name, listed in COMMONEST.items()}
# More words of English, where only English and the rest are told apart.
ENGLISH = VOCABULARIES["en"] | frozenset(
    [
        "no",
        "so",
        "us",
        "he",
        "she",
        "his",
        "her",
        "him",
        "been",
        "than",
        "then",
        "them",
        "these",
        "those",
        "when",
        "who",
        "would",
        "could",
        "should",
        "as",
        "by",
        "if",
        "or",
        "an",
        "any",
        "all",
        "also",
        "more",
        "one",
        "please",
        "sorry",
        "help",
        "try",
        "let",
        "here",
        "because",
        "into",
        "over",
        "after",
        "before",
        "such",
        "other",
        "some",
        "only",
        "need",
        "must",
        "may",
        "might",
        "just",
        "like",
        "make",
        "sure",
        "there's",
        "that's",
        "you're",
        "can't",
        "cannot",
        "don't",
        "i'll",
        "i'd",
        "let's",
        "out",
        "up",
        "first",
        "you'll",
        "we're",
        "they're",
    ]
)
# Characters of a long text in which letters are counted.
READ = 200
LATIN_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
# A language is recognised by the share of different words it has, the factor over any other
# language, and the fewest such words.
SHARE, FACTOR, FEWEST = 0.15, 1.5, 2
# A script is recognised by its share of letters; a text with fewer letters has no language.
MOST, FEW_LETTERS = 0.6, 5
# A text in Latin script is foreign with this share of different words that English does not have;
# a text of so many words without an English word also with accented ones among them. With this
# share of words that only English has, it is English.
FOREIGN, FEW_WORDS, ENGLISH_SHARE = 0.15, 5, 0.25
# A text in two scripts is foreign with this share of letters in another script, and almost no words
# of English.
PARTLY = 0.3
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\b\w+://\S+", re.DOTALL)
# Scripts that are written together count as one: Japanese has three.
TOGETHER = {
    "HIRAGANA": "CJK",
    "KATAKANA": "CJK",
    "KATAKANA-HIRAGANA": "CJK",
    "BOPOMOFO": "CJK",
    "IDEOGRAPHIC": "CJK",
}


@lru_cache(maxsize=1 << 14)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "OTHER").split(" ", 1)[0]
    # Letters in other shapes ("ª", fullwidth, mathematical bold) count as Latin.
    return (
        "LATIN"
        if name in ("FULLWIDTH", "MATHEMATICAL", "FEMININE", "MASCULINE", "MODIFIER")
        else TOGETHER.get(name, name)
    )


def scripts(text: str) -> dict[str, float]:
    """Share of the letters by script ("LATIN", "CYRILLIC", "CJK", "HANGUL", ...)."""
    if text.isascii():
        return {"LATIN": 1.0} if any(map(str.isalpha, text)) else {}
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return {name: count / counts.total() for name, count in counts.items()}


def mixed_scripts(text: str, part: float = 0.15) -> bool:
    """Whether each of three or more scripts has a share `part` of the letters, which no person
    writes.
    """
    return sum(share >= part for share in scripts(text).values()) >= 3


@lru_cache(maxsize=1 << 10)
def language(text: str) -> str | None:
    """A two-letter code of `COMMONEST`, the name of a script other than Latin, or None if the text
    is too short to tell.
    """
    shares = scripts(text)
    if not shares or sum(map(str.isalpha, text[:READ])) < FEW_LETTERS:
        return None
    script = max(shares, key=lambda name: shares[name])
    if script != "LATIN":
        return script if shares[script] >= MOST else None
    spelled = {word.replace("\u2019", "'") for word in LATIN_WORD.findall(text.lower())}
    hits = {name: len(spelled & known) for name, known in VOCABULARIES.items()}
    first, second = sorted(hits, key=lambda name: -hits[name])[:2]
    enough = hits[first] >= max(FEWEST, SHARE * len(spelled))
    return first if enough and hits[first] >= FACTOR * hits[second] else None


@cache
def _foreign_words() -> dict[str, frozenset[str]]:
    """Common words of some thirty languages in Latin script, by code."""
    text = resources.files("vectomy").joinpath("metrics/judges/languages.json").read_text(encoding="utf-8")
    return {code: frozenset(listed.split()) for code, listed in json.loads(text).items()}


@cache
def _only_english() -> frozenset[str]:
    """Words of English that no other language has, unlike "a" and "no"."""
    return ENGLISH.difference(*_foreign_words().values())


@lru_cache(maxsize=1 << 10)
def find_foreign_language(text: str) -> str | None:
    """The language of a text that is not English: a two-letter code of languages.json, the name of
    a script, or "Latin script" for other languages. None for English, code, numbers, names, and
    what is too short to tell.
    """
    prose = CODE.sub(" ", text) if "`" in text or "://" in text else text
    letters = sum(map(str.isalpha, prose[:READ]))
    if letters < FEW_LETTERS and prose.isascii():
        return None
    spelled = set(LATIN_WORD.findall(prose.replace("\u2019", "'")))
    words = set(map(str.lower, spelled))
    english = words & ENGLISH
    if not prose.isascii() and (script := _find_script(prose, len(english))) is not None:
        return script if letters >= (FEW_LETTERS if script == "GREEK" else 2) else None
    if letters < FEW_LETTERS:
        return None
    only_english = len(words & _only_english())
    if only_english >= max(FEWEST, ENGLISH_SHARE * len(words)):
        return None
    # Names are capitalised, and words that both languages have tell nothing.
    plain = {word for word in spelled if word[0].islower()} - ENGLISH
    hits = {code: len(plain & known) for code, known in _foreign_words().items()}
    best = max(hits, key=lambda code: hits[code])
    if hits[best] >= max(FEWEST, FOREIGN * len(words)) and hits[best] >= FACTOR * len(
        english - _foreign_words()[best]
    ):
        return best
    accented = {word for word in plain if not word.isascii()}
    told = hits[best] + len(accented - _foreign_words()[best])
    if len(words) >= FEW_WORDS and not only_english and told >= max(FEWEST, FOREIGN * len(words)):
        return best if hits[best] >= FEWEST else "Latin script"
    return None


def has_english(text: str) -> bool:
    """Whether a text has a word that only English has."""
    return not _only_english().isdisjoint(LATIN_WORD.findall(text.lower().replace("\u2019", "'")))


def _find_script(text: str, english: int) -> str | None:
    """The script other than Latin in which a text is written, that has so many English words."""
    shares = scripts(text)
    shares.pop("LATIN", None)
    script = max(shares, key=lambda name: shares[name], default=None)
    if script is None:
        return None
    # Greek letters are mathematics too.
    partly = PARTLY if script != "GREEK" and english < FEWEST else MOST
    return script if shares[script] >= partly else None
