"""Prompt sets and their contrast: reads them, checks them, and divides them into three disjoint
splits.

A source is written as

    FILE                 .jsonl .json .csv .parquet (a column) or .txt (one prompt per line)
    OWNER/NAME[:SPLIT]   a data set on the Hub (default split: train)
    bundled:refused      a bundled set: refused, harmless, everyday
    xstest               Paul/XSTest on the Hub: prompts that only look harmful, and harmful ones

each with an optional #COLUMN at the end. Without it, the first existing column of `text`, `prompt`,
`instruction`, `goal`, `question` and `messages` is used. `messages` are turns with `role` and
`content`, of which the last is the user's.
"""

from __future__ import annotations

import os
import random
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from vectomy.core.config import Contrast, Source
from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject
from vectomy.data.sources import clip, read_rows

__all__ = [
    "Labelled",
    "Prompt",
    "SplitName",
    "Splits",
    "Turn",
    "read_labelled",
    "read_prompts",
    "read_unmeasured",
    "split_contrast",
    "split_preserve",
]

COLUMNS = ("text", "prompt", "instruction", "goal", "question", "messages")
ROLES = ("user", "assistant")
SplitName = Literal["fit", "search", "test"]
SPLITS: tuple[SplitName, ...] = ("fit", "search", "test")
# Shares of search and test of a set without splits of its own; at least two prompts each.
SEARCH_SHARE, TEST_SHARE = 0.15, 0.25
FEWEST = 6


@dataclass(frozen=True)
class Turn:
    """An earlier turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt:
    """A user's request, with its system prompt and the earlier turns."""

    text: str
    system: str | None = None
    history: tuple[Turn, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """A key that is equal for prompts that differ only in case, spacing or Unicode form."""

        def plain(text: str) -> str:
            return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()

        # A plain text never contains the separator.
        context = [self.system or "", *(f"{turn.role}: {turn.content}" for turn in self.history)]
        return plain(self.text), "\x1f".join(plain(part) for part in context)

    def to_json(self) -> JsonObject:
        history = {"history": [vars(turn) for turn in self.history]} if self.history else {}
        return {"text": self.text, "system": self.system, **history}


@dataclass(frozen=True)
class Labelled:
    """A prompt with the type and label of its source, as XSTest has them: `type` (homonyms, ...)
    and `label` (safe, unsafe).
    """

    prompt: Prompt
    type: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Splits:
    """The prompts of one side of a contrast. Directions are fitted on `fit`, chosen on `search` and
    reported on `test`.
    """

    fit: tuple[Prompt, ...]
    search: tuple[Prompt, ...]
    test: tuple[Prompt, ...]

    def to_json(self) -> dict[str, list[JsonObject]]:
        return {name: [prompt.to_json() for prompt in getattr(self, name)] for name in SPLITS}


@dataclass(frozen=True)
class _Read:
    """A source's prompts; `split` is assigned by the source itself, as in the bundled sets."""

    source: str
    labelled: tuple[Labelled, ...]
    split: tuple[str | None, ...]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(row.prompt for row in self.labelled)


def read_prompts(source: Source) -> list[Prompt]:
    """All prompts of a source, without duplicates.

    Raises:
        PromptError: the file, data set or column does not exist, a row is not text, or the source
        is
            empty.
    """
    return list(_read(source).prompts)


def read_labelled(source: Source) -> list[Labelled]:
    """Prompts to measure on, with the type and label of their rows, without duplicates.

    Of a set with splits of its own, such as the bundled ones, only the test split is read:
    directions may have been fitted on the others.

    Raises:
        PromptError: as `read_prompts`.
    """
    read = _read(source)
    if not any(read.split):
        return list(read.labelled)
    return [row for row, split in zip(read.labelled, read.split, strict=True) if split == "test"]


def read_unmeasured(source: Source) -> list[Prompt]:
    """Prompts to learn from: everything except the test split, if the set has splits of its own.

    Raises:
        PromptError: as `read_prompts`.
    """
    read = _read(source)
    return [prompt for prompt, split in zip(read.prompts, read.split, strict=True) if split != "test"]


def split_contrast(contrast: Contrast, seed: int = 0) -> tuple[Splits, Splits]:
    """(positive, negative), each in three splits that share no prompt; the same seed gives the same
    splits.

    Raises:
        PromptError: see `read_prompts`; a set with too few prompts, two equal sets, splits or sides
            that overlap.
    """
    sides = []
    for side in ("positive", "negative"):
        own = {split: _read_split(contrast, side, split) for split in ("search", "test")}
        sides.append(_cut(side, _read(getattr(contrast, side)), own, contrast, seed))
    positive, negative = sides
    keys = [{prompt.key for split in SPLITS for prompt in getattr(side, split)} for side in sides]
    shared = keys[0] & keys[1]
    if shared:
        what = "are the same set" if len(shared) == min(map(len, keys)) else f"share {len(shared)} prompts"
        raise PromptError(
            f"the positive prompts ({contrast.positive.prompts}) and the negative ones "
            f"({contrast.negative.prompts}) {what}, "
            f"for example '{clip(min(shared)[0])}'; give two different sets, or two different system prompts"
        )
    return positive, negative


def split_preserve(contrast: Contrast, seed: int = 0) -> Splits | None:
    """The preserve set (`keep`) in three splits, or None if there is none.

    Raises:
        PromptError: see `read_prompts`; or there are too few prompts, or the splits overlap.
    """
    if contrast.keep is None:
        return None
    own = {split: _read_split(contrast, "keep", split) for split in ("search", "test")}
    return _cut("keep", _read(contrast.keep), own, contrast, seed)


def _read_split(contrast: Contrast, side: str, split: str) -> _Read | None:
    """The source of one split, if it was given separately. It uses the side's system prompt unless
    it has its own.
    """
    source: Source | None = getattr(contrast, f"{side}_{split}")
    if source is not None and source.system is None:
        source = source.model_copy(update={"system": getattr(contrast, side).system})
    return None if source is None else _read(source)


def _cut(side: str, fit: _Read, own: dict[str, _Read | None], contrast: Contrast, seed: int) -> Splits:
    limit = {"fit": contrast.n_fit, "search": contrast.n_search, "test": contrast.n_test}
    if len(fit.prompts) < (FEWEST if None in own.values() else 2):
        raise PromptError(
            f"the {side} prompts ({fit.source}) are {len(fit.prompts)}; at least {FEWEST} are needed for "
            "separate fit, search and test splits"
        )
    chosen = _use_own_splits(fit) if any(fit.split) else _shuffle_splits(fit, own, limit, seed)
    chosen |= {name: list(read.prompts) for name, read in own.items() if read is not None}
    # By text alone: another system prompt does not make a fitted prompt a new one.
    seen: dict[str, str] = {}
    for name in SPLITS:
        fresh = [prompt for prompt in chosen[name] if prompt.key[0] not in seen]
        if len(fresh) < len(chosen[name]) and not contrast.drop_overlap:
            double = next(prompt for prompt in chosen[name] if prompt.key[0] in seen)
            raise PromptError(
                f"the {side} {name} prompts overlap the {seen[double.key[0]]} prompts in "
                f"{len(chosen[name]) - len(fresh)}, "
                f"for example '{clip(double.text)}'; reported prompts must not have been fitted on. Use "
                "other files, or "
                "--drop-overlap"
            )
        chosen[name] = fresh[: limit[name]]
        if len(chosen[name]) < 2:
            raise PromptError(f"the {side} {name} split has {len(chosen[name])} prompts; give at least 2")
        # A whole split counts as seen, even beyond its limit: it may have been used elsewhere.
        seen |= {prompt.key[0]: name for prompt in fresh}
    return Splits(*(tuple(chosen[name]) for name in SPLITS))


def _use_own_splits(fit: _Read) -> dict[str, list[Prompt]]:
    return {
        name: [p for p, split in zip(fit.prompts, fit.split, strict=True) if split == name] for name in SPLITS
    }


def _shuffle_splits(
    fit: _Read, own: dict[str, _Read | None], limit: dict[str, int], seed: int
) -> dict[str, list[Prompt]]:
    """The splits without a source of their own, cut from one shuffled set."""
    pool = list(fit.prompts)
    # The same seed for both sides: of one set under two system prompts, each text stays in one
    # split.
    random.Random(seed).shuffle(pool)
    chosen = {}
    for name, share in (("test", TEST_SHARE), ("search", SEARCH_SHARE)):
        if own[name] is None:
            count = min(limit[name], max(2, int(len(fit.prompts) * share)))
            chosen[name], pool = pool[:count], pool[count:]
    return {**chosen, "fit": pool}


def _read(source: Source) -> _Read:
    spec, _, column = (
        (source.prompts, "", "") if os.path.isfile(source.prompts) else source.prompts.partition("#")
    )
    rows = read_rows(spec)
    if not rows:
        raise PromptError(f"the prompt source {spec} is empty")
    column = column or next((name for name in COLUMNS if name in rows[0]), "")
    if column not in rows[0]:
        asked = f"no column '{column}'" if column else f"none of the columns {', '.join(COLUMNS)}"
        raise PromptError(
            f"the prompt source {spec} has {asked}; it has {', '.join(map(str, rows[0]))}. Name one with "
            f"'{spec}#COLUMN'"
        )
    prompts: dict[tuple[str, str], tuple[Labelled, str | None]] = {}
    for number, row in enumerate(rows, 1):
        value = row.get(column)
        if isinstance(value, str):
            prompt = Prompt(value.strip(), source.system)
        elif column == "messages":
            prompt = _read_conversation(value, source.system, f"row {number} of {spec}")
        else:
            raise PromptError(
                f"row {number} of {spec} has {value!r} in column '{column}', which is not text; name a text "
                "column with #COLUMN"
            )
        if prompt.text:
            labelled = Labelled(prompt, _to_text(row.get("type")), _to_text(row.get("label")))
            prompts.setdefault(
                prompt.key, (labelled, row.get("split") if spec.startswith("bundled:") else None)
            )
    if not prompts:
        raise PromptError(f"the prompt source {spec} has only empty prompts in column '{column}'")
    kept = prompts.values()
    return _Read(spec, tuple(row for row, _ in kept), tuple(split for _, split in kept))


def _to_text(value: Any) -> str | None:
    """A type or label as text; class numbers are kept as written."""
    return None if value is None or value == "" else str(value)


def _read_conversation(messages: Any, system: str | None, where: str) -> Prompt:
    """A prompt from the turns of a chat file; the caller's system prompt replaces that of
    the file.
    """
    turns = messages if isinstance(messages, list) else []
    whole = all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    )
    if whole and turns and turns[0]["role"] == "system":
        system = turns[0]["content"] if system is None else system
        turns = turns[1:]
    if (
        not whole
        or not turns
        or turns[-1]["role"] != "user"
        or any(turn["role"] not in ROLES for turn in turns)
    ):
        raise PromptError(
            f"{where} has messages that are not a conversation. Needed is a list of turns with `role` "
            "(user, assistant; system "
            f"for the first) and `content`, of which the last is the user's, not {clip(repr(messages), 200)}"
        )
    *history, last = turns
    return Prompt(
        last["content"].strip(), system, tuple(Turn(turn["role"], turn["content"]) for turn in history)
    )
