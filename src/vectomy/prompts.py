"""Prompt sets and the contrast they make: read them from anywhere, check them, cut them into three disjoint splits.

A source is written as

    FILE                 .jsonl .json .csv .parquet (a column) or .txt (a prompt a line)
    OWNER/NAME[:SPLIT]   a data set on the Hub (default split: train)
    bundled:refused      the small sets that come with vectomy: refused, harmless

each with an optional #COLUMN at the end; without it the first of `text`, `prompt`, `instruction`, `goal`, `question`
that exists is taken.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import unicodedata
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from vectomy.config import Contrast, Source
from vectomy.errors import PromptError

__all__ = ["Prompt", "SplitName", "Splits", "read_prompts", "split_contrast", "split_kept"]

COLUMNS = ("text", "prompt", "instruction", "goal", "question")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
SplitName = Literal["fit", "search", "test"]
SPLITS: tuple[SplitName, ...] = ("fit", "search", "test")
# Of a set that has no split of its own: shares of search and test, at least two prompts each.
SEARCH_SHARE, TEST_SHARE = 0.15, 0.25
FEWEST = 6


@dataclass(frozen=True)
class Prompt:
    """One request of a user, with the system prompt it is asked under."""

    text: str
    system: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Equal for prompts that differ only in case, spacing or Unicode form."""

        def plain(text: str) -> str:
            return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()

        return plain(self.text), plain(self.system or "")


@dataclass(frozen=True)
class Splits:
    """The prompts of one side of a contrast: directions are fitted on fit, chosen on search, reported on test."""

    fit: tuple[Prompt, ...]
    search: tuple[Prompt, ...]
    test: tuple[Prompt, ...]

    def to_json(self) -> dict[str, list[dict[str, str | None]]]:
        return {name: [{"text": p.text, "system": p.system} for p in getattr(self, name)] for name in SPLITS}


@dataclass(frozen=True)
class _Read:
    """A source's prompts; `split` is what the source itself assigns, as the bundled sets do."""

    source: str
    prompts: tuple[Prompt, ...]
    split: tuple[str | None, ...]


def read_prompts(source: Source) -> list[Prompt]:
    """All prompts of a source, doubles left out.

    Raises:
        PromptError: no such file, data set or column; a row that is no text; nothing in it.
    """
    return list(_read(source).prompts)


def split_contrast(contrast: Contrast, seed: int = 0) -> tuple[Splits, Splits]:
    """(positive, negative), each in three splits that share no prompt; the same seed gives the same splits.

    Raises:
        PromptError: see `read_prompts`; a set with too few prompts, two equal sets, splits or sides that overlap.
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
            f"for example '{_clip(min(shared)[0])}'; a contrast needs two different sets, or two different system prompts"
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
    """The source that was given for one split alone, under the side's system prompt unless it has its own."""
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
                f"for example '{_clip(double.text)}'; what is reported must not have been fitted on. Use other files, or "
                "--drop-overlap"
            )
        chosen[name] = fresh[: limit[name]]
        if len(chosen[name]) < 2:
            raise PromptError(f"the {side} {name} split has {len(chosen[name])} prompts; at least 2 are needed")
        # All of a split counts as seen, also what its limit cuts off: it may have been looked at elsewhere.
        seen |= {prompt.key[0]: name for prompt in fresh}
    return Splits(*(tuple(chosen[name]) for name in SPLITS))


def _assigned(fit: _Read) -> dict[str, list[Prompt]]:
    return {name: [p for p, split in zip(fit.prompts, fit.split, strict=True) if split == name] for name in SPLITS}


def _shuffled(fit: _Read, own: dict[str, _Read | None], limit: dict[str, int], seed: int) -> dict[str, list[Prompt]]:
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


def _clip(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _read(source: Source) -> _Read:
    spec, _, column = (source.prompts, "", "") if os.path.isfile(source.prompts) else source.prompts.partition("#")
    rows = _rows(spec)
    if not rows:
        raise PromptError(f"the prompt source {spec} is empty")
    column = column or next((name for name in COLUMNS if name in rows[0]), "")
    if column not in rows[0]:
        asked = f"no column '{column}'" if column else f"none of the columns {', '.join(COLUMNS)}"
        raise PromptError(
            f"the prompt source {spec} has {asked}; it has {', '.join(map(str, rows[0]))}. Name one with '{spec}#COLUMN'"
        )
    prompts: dict[tuple[str, str], tuple[Prompt, str | None]] = {}
    for number, row in enumerate(rows, 1):
        text = row.get(column)
        if not isinstance(text, str):
            raise PromptError(f"row {number} of {spec} has {text!r} in column '{column}', which is no text")
        if text.strip():
            prompt = Prompt(text.strip(), source.system)
            prompts.setdefault(prompt.key, (prompt, row.get("split") if spec.startswith("bundled:") else None))
    if not prompts:
        raise PromptError(f"the prompt source {spec} holds only empty prompts in column '{column}'")
    kept = prompts.values()
    return _Read(spec, tuple(prompt for prompt, _ in kept), tuple(split for _, split in kept))


def _rows(spec: str) -> list[dict[str, Any]]:
    if spec.startswith("bundled:"):
        return _bundled(spec.removeprefix("bundled:"))
    path = Path(os.path.expanduser(spec))
    # os.path: unlike Path's, these two say no to a name that is too long for the file system.
    if os.path.isfile(path):
        return _file_rows(path)
    if os.path.isdir(path):
        raise PromptError(f"the prompt source {spec} is a folder; give a file ({', '.join(SUFFIXES)})")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", spec) and path.suffix not in SUFFIXES:
        return _hub_rows(spec)
    raise PromptError(f"the prompt file {_clip(spec, 300)} does not exist")


def _bundled(name: str) -> list[dict[str, Any]]:
    folder = resources.files("vectomy") / "demo" / "prompts"
    file = folder / f"{name}.jsonl"
    if not re.fullmatch(r"\w+", name) or not file.is_file():
        names = sorted(entry.name.removesuffix(".jsonl") for entry in folder.iterdir() if entry.name.endswith(".jsonl"))
        raise PromptError(f"there is no bundled prompt set '{name}'; there are {', '.join(names)}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _file_rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            return _parquet_rows(path)
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".txt":
            return [{"text": line} for line in text.splitlines() if line.strip()]
        if path.suffix == ".csv":
            # No splitlines here or below: it also cuts at U+2028 and the like, which may stand within a prompt.
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if path.suffix == ".jsonl":
            return _objects(path, [json.loads(line) for line in text.split("\n") if line.strip()])
        if path.suffix == ".json":
            return _objects(path, json.loads(text))
    except UnicodeDecodeError:
        raise PromptError(f"the prompt file {path} is not UTF-8 text") from None
    # ValueError: no JSON, or a number of more digits than Python takes.
    except (ValueError, RecursionError, csv.Error) as error:
        raise PromptError(f"the prompt file {path} does not parse: {error}") from None
    raise PromptError(f"the prompt file {path} is of an unknown kind; use {', '.join(SUFFIXES)}")


def _objects(path: Path, rows: Any) -> list[dict[str, Any]]:
    """Rows of objects, or of plain strings."""
    if not isinstance(rows, list):
        raise PromptError(f"the prompt file {path} holds a {type(rows).__name__}, not a list of rows")
    rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise PromptError(f"row {number} of the prompt file {path} is {row!r}, neither an object nor a text")
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise PromptError(f"the prompt file {path} does not parse as Parquet: {error}") from None
    return rows


def _hub_rows(spec: str) -> list[dict[str, Any]]:
    from datasets import load_dataset

    name, _, split = spec.partition(":")
    split = split or "train"
    try:
        return list(load_dataset(name, split=split))
    except Exception as error:  # noqa: BLE001 (the library raises many kinds; all mean that the set is not to be had)
        reason = _clip(str(error).splitlines()[0] if str(error) else type(error).__name__, 160)
        raise PromptError(
            f"'{name}' is no file here, and the Hub gives no data set of that name with split '{split}': {reason}. "
            "Offline, give local files or bundled:refused and bundled:harmless"
        ) from None
