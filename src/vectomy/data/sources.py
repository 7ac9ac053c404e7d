"""Reads rows of prompts from files, from data sets on the Hub, and from the bundled sets."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import iter_jsonl, read_jsonl, split_lines

__all__ = ["clip", "plain_source", "read_rows"]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
ALIASES = {"xstest": "Paul/XSTest"}


def read_rows(spec: str) -> list[dict[str, Any]]:
    """All rows of a source, as objects.

    Raises:
        PromptError: the file or data set does not exist, or does not parse.
    """
    if spec.startswith("bundled:"):
        return _bundled(spec.removeprefix("bundled:"))
    path = Path(os.path.expanduser(spec))
    if spec in ALIASES and not os.path.exists(path):
        return _hub_rows(ALIASES[spec])
    # Unlike those of Path, these two functions of os.path return False for a name that is too long.
    if os.path.isfile(path):
        return _file_rows(path)
    if os.path.isdir(path):
        raise PromptError(f"the prompt source {spec} is a folder; give a file ({', '.join(SUFFIXES)})")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", spec) and path.suffix not in SUFFIXES:
        return _hub_rows(spec)
    raise PromptError(f"the prompt file {clip(spec, 300)} does not exist")


def _bundled(name: str) -> list[JsonObject]:
    folder = resources.files("vectomy") / "data" / "bundled"
    file = folder / f"{name}.jsonl"
    if not re.fullmatch(r"\w+", name) or not file.is_file():
        names = sorted(
            entry.name.removesuffix(".jsonl") for entry in folder.iterdir() if entry.name.endswith(".jsonl")
        )
        raise PromptError(f"there is no bundled prompt set '{name}'; there are {', '.join(names)}")
    return read_jsonl(file, remedy="install vectomy again")


def _file_rows(path: Path) -> list[JsonObject]:
    try:
        if path.suffix == ".parquet":
            return _parquet_rows(path)
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".txt":
            return [{"text": line} for _, line in split_lines(text)]
        if path.suffix == ".csv":
            # Not splitlines, which also splits at U+2028 and similar characters within a prompt.
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if path.suffix == ".jsonl":
            return _objects(path, [row for _, row in iter_jsonl(text, partial(_no_json, path))])
        if path.suffix == ".json":
            return _objects(path, json.loads(text))
    except UnicodeDecodeError:
        raise PromptError(f"the prompt file {path} is not UTF-8 text") from None
    # ValueError: not JSON, or a number with more digits than Python accepts.
    except (ValueError, RecursionError, csv.Error) as error:
        raise PromptError(f"the prompt file {path} does not parse: {error}") from None
    raise PromptError(f"the prompt file {path} has an unknown suffix; use {', '.join(SUFFIXES)}")


def _no_json(path: Path, number: int, why: str) -> PromptError:
    return PromptError(f"the prompt file {path} does not parse: line {number} is not JSON ({why})")


def _objects(path: Path, rows: Any) -> list[JsonObject]:
    """Rows that are objects or plain strings, as objects."""
    if not isinstance(rows, list):
        raise PromptError(f"the prompt file {path} contains a {type(rows).__name__}, not a list of rows")
    rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise PromptError(
                f"row {number} of the prompt file {path} is {row!r}, neither an object nor a text"
            )
    return rows


def _parquet_rows(path: Path) -> list[JsonObject]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise PromptError(f"the prompt file {path} does not parse as Parquet: {error}") from None
    return rows


def _hub_rows(spec: str) -> list[JsonObject]:
    from datasets import load_dataset

    name, _, split = spec.partition(":")
    split = split or "train"
    try:
        return list(load_dataset(name, split=split))
    except Exception as error:  # noqa: BLE001 (the library raises many kinds; all mean that the set is not available)
        reason = clip(str(error).splitlines()[0] if str(error) else type(error).__name__, 160)
        raise PromptError(
            f"'{name}' is not a local file, and the Hub has no data set of that name with split '{split}': "
            f"{reason}. "
            "Offline, use local files, or bundled:refused and bundled:harmless"
        ) from None


def clip(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def plain_source(spec: str) -> str:
    """A prompt source without local folders."""
    return Path(spec).name if os.path.exists(spec.partition("#")[0]) else spec
