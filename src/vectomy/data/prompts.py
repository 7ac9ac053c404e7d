"""Prompt sets and the contrast they make: read them from anywhere, check them, cut them into three
disjoint splits.

A source is written as

    FILE                 .jsonl .json .csv .parquet (a column) or .txt (a prompt a line)
    OWNER/NAME[:SPLIT]   a data set on the Hub (default split: train) bundled:refused      the small
    sets that come with vectomy: refused, harmless xstest               Paul/XSTest on the Hub,
    prompts that look harmful and are not beside ones that are

each with an optional #COLUMN at the end; without it the first of `text`, `prompt`, `instruction`,
`goal`, `question`, `messages` that exists is taken. `messages` are turns with `role` and `content`,
the last of them the user's.
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
    "split_kept",
]

COLUMNS = ("text", "prompt", "instruction", "goal", "question", "messages")
ROLES = ("user", "assistant")
SplitName = Literal["fit", "search", "test"]
SPLITS: tuple[SplitName, ...] = ("fit", "search", "test")
# Of a set that has no split of its own: shares of search and test, at least two prompts each.
SEARCH_SHARE, TEST_SHARE = 0.15, 0.25
FEWEST = 6


@dataclass(frozen=True)
class Turn:
    """What was said earlier in a conversation, and by whom."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt:
    """One request of a user, with the system prompt it is asked under and the turns that came
    before it.
    """

    text: str
    system: str | None = None
    history: tuple[Turn, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Equal for prompts that differ only in case, spacing or Unicode form."""

        def plain(text: str) -> str:
            return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()

        # No text holds the separator once it is plain.
        context = [self.system or "", *(f"{turn.role}: {turn.content}" for turn in self.history)]
        return plain(self.text), "\x1f".join(plain(part) for part in context)

    def to_json(self) -> dict[str, Any]:
        said = {"history": [vars(turn) for turn in self.history]} if self.history else {}
        return {"text": self.text, "system": self.system, **said}


@dataclass(frozen=True)
class Labelled:
    """A prompt, and what its source says of it: XSTest's `type` (homonyms, ...) and `label` (safe,
    unsafe).
    """

    prompt: Prompt
    type: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Splits:
    """The prompts of one side of a contrast: directions are fitted on fit, chosen on search,
    reported on test.
    """

    fit: tuple[Prompt, ...]
    search: tuple[Prompt, ...]
    test: tuple[Prompt, ...]

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        return {name: [prompt.to_json() for prompt in getattr(self, name)] for name in SPLITS}


@dataclass(frozen=True)
class _Read:
    """A source's prompts; `split` is what the source itself assigns, as the bundled sets do."""

    source: str
    labelled: tuple[Labelled, ...]
    split: tuple[str | None, ...]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(row.prompt for row in self.labelled)


def read_prompts(source: Source) -> list[Prompt]:
    """All prompts of a source, doubles left out.

    Raises:
        PromptError: no such file, data set or column; a row that is no text; nothing in it.
    """
    return list(_read(source).prompts)


def read_labelled(source: Source) -> list[Labelled]:
    """Prompts to measure on, with the type and label that their rows carry; doubles left out.

    Of a set that assigns splits, as the bundled ones do, the test split alone: directions may have
    been fitted on the others.

    Raises:
        PromptError: as `read_prompts`.
    """
    read = _read(source)
    if not any(read.split):
        return list(read.labelled)
    return [row for row, split in zip(read.labelled, read.split, strict=True) if split == "test"]


def read_unmeasured(source: Source) -> list[Prompt]:
    """Prompts to learn from: of a set that assigns splits all but its test split.

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
        own = {split: _own(contrast, side, split) for split in ("search", "test")}
        sides.append(_cut(side, _read(getattr(contrast, side)), own, contrast, seed))
    positive, negative = sides
    keys = [{prompt.key for split in SPLITS for prompt in getattr(side, split)} for side in sides]
    shared = keys[0] & keys[1]
    if shared:
        what = "are the same set" if len(shared) == min(map(len, keys)) else f"share {len(shared)} prompts"
        raise PromptError(
            f"the positive prompts ({contrast.positive.prompts}) and the negative ones ({contrast.negative.prompts}) {what}, "
            f"for example '{clip(min(shared)[0])}'; a contrast needs two different sets, or two different system prompts"
        )
    return positive, negative


def split_kept(contrast: Contrast, seed: int = 0) -> Splits | None:
    """The prompts of `keep` in three splits, or None where there are none.

    Raises:
        PromptError: see `read_prompts`; too few prompts, or splits that overlap.
    """
    if contrast.keep is None:
        return None
    own = {split: _own(contrast, "keep", split) for split in ("search", "test")}
    return _cut("keep", _read(contrast.keep), own, contrast, seed)


def _own(contrast: Contrast, side: str, split: str) -> _Read | None:
    """The source that was given for one split alone, under the side's system prompt unless it has
    its own.
    """
    source: Source | None = getattr(contrast, f"{side}_{split}")
    if source is not None and source.system is None:
        source = source.model_copy(update={"system": getattr(contrast, side).system})
    return None if source is None else _read(source)


def _cut(side: str, fit: _Read, own: dict[str, _Read | None], contrast: Contrast, seed: int) -> Splits:
    limit = {"fit": contrast.n_fit, "search": contrast.n_search, "test": contrast.n_test}
    if len(fit.prompts) < (FEWEST if None in own.values() else 2):
        raise PromptError(
            f"the {side} prompts ({fit.source}) are {len(fit.prompts)}; at least {FEWEST} are needed to fit, search and "
            "test on different ones"
        )
    chosen = _assigned(fit) if any(fit.split) else _shuffled(fit, own, limit, seed)
    chosen |= {name: list(read.prompts) for name, read in own.items() if read is not None}
    # By text alone: another system prompt does not make a prompt that was fitted on a fresh one.
    seen: dict[str, str] = {}
    for name in SPLITS:
        fresh = [prompt for prompt in chosen[name] if prompt.key[0] not in seen]
        if len(fresh) < len(chosen[name]) and not contrast.drop_overlap:
            double = next(prompt for prompt in chosen[name] if prompt.key[0] in seen)
            raise PromptError(
                f"the {side} {name} prompts overlap the {seen[double.key[0]]} prompts in {len(chosen[name]) - len(fresh)}, "
                f"for example '{clip(double.text)}'; what is reported must not have been fitted on. Use other files, or "
                "--drop-overlap"
            )
        chosen[name] = fresh[: limit[name]]
        if len(chosen[name]) < 2:
            raise PromptError(
                f"the {side} {name} split has {len(chosen[name])} prompts; at least 2 are needed"
            )
        # All of a split counts as seen, also what its limit cuts off: it may have been looked at
        # elsewhere.
        seen |= {prompt.key[0]: name for prompt in fresh}
    return Splits(*(tuple(chosen[name]) for name in SPLITS))


def _assigned(fit: _Read) -> dict[str, list[Prompt]]:
    return {
        name: [p for p, split in zip(fit.prompts, fit.split, strict=True) if split == name] for name in SPLITS
    }


def _shuffled(
    fit: _Read, own: dict[str, _Read | None], limit: dict[str, int], seed: int
) -> dict[str, list[Prompt]]:
    """The splits that have no source of their own, cut from one shuffled set."""
    pool = list(fit.prompts)
    # Both sides alike: one set under two system prompts must keep each text in one split.
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
            f"the prompt source {spec} has {asked}; it has {', '.join(map(str, rows[0]))}. Name one with '{spec}#COLUMN'"
        )
    prompts: dict[tuple[str, str], tuple[Labelled, str | None]] = {}
    for number, row in enumerate(rows, 1):
        value = row.get(column)
        if isinstance(value, str):
            prompt = Prompt(value.strip(), source.system)
        elif column == "messages":
            prompt = _conversation(value, source.system, f"row {number} of {spec}")
        else:
            raise PromptError(f"row {number} of {spec} has {value!r} in column '{column}', which is no text")
        if prompt.text:
            labelled = Labelled(prompt, _word(row.get("type")), _word(row.get("label")))
            prompts.setdefault(
                prompt.key, (labelled, row.get("split") if spec.startswith("bundled:") else None)
            )
    if not prompts:
        raise PromptError(f"the prompt source {spec} holds only empty prompts in column '{column}'")
    kept = prompts.values()
    return _Read(spec, tuple(row for row, _ in kept), tuple(split for _, split in kept))


def _word(value: Any) -> str | None:
    """A type or label; class numbers and the like as they are written."""
    return None if value is None or value == "" else str(value)


def _conversation(messages: Any, system: str | None, where: str) -> Prompt:
    """Turns as chat files hold them; a system prompt of the caller's stands in for one of theirs."""
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
            f"{where} has messages that are no conversation: a list of turns with `role` (user, assistant; system for the first) and "
            f"`content`, the last of them the user's, not {clip(repr(messages), 200)}"
        )
    *history, last = turns
    return Prompt(
        last["content"].strip(), system, tuple(Turn(turn["role"], turn["content"]) for turn in history)
    )
