"""Rows as JSON lines: the one reader and the one writer. Loads no torch.

A line ends at "\\n" alone. `str.splitlines` also cuts at U+2028, U+2029, U+0085 and the like, which
JSON leaves as they are and which may stand within a prompt or an answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from vectomy.core.errors import ArtifactError, VectomyError
from vectomy.core.json_value import JsonValue
from vectomy.core.run_folder import write_whole

__all__ = ["iter_jsonl", "json_line", "read_jsonl", "split_lines", "write_jsonl"]


def split_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) of each line that is not blank."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def iter_jsonl(text: str, refuse: Callable[[int, str], VectomyError]) -> Iterator[tuple[int, Any]]:
    """(number, value) of each line that is not blank.

    Args:
        refuse: makes the error to raise of the number of a line that is not JSON, and why it is
            not.
    """
    for number, line in split_lines(text):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise refuse(number, f"{error.msg.removesuffix(' at')} at column {error.colno}") from None
        # ValueError: a number of more digits than Python takes.
        except (ValueError, RecursionError) as error:
            raise refuse(number, str(error)) from None
        yield number, value


def read_jsonl(file: Path | Traversable, remedy: str = "delete it and run again") -> list[dict[str, Any]]:
    """The rows of a file, each an object.

    Raises:
        ArtifactError: the file is absent or not text, or a line is no object; it ends with
            `remedy`.
    """

    def refuse(number: int, why: str) -> ArtifactError:
        return ArtifactError(f"line {number} of {file} is not JSON ({why}); {remedy}")

    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactError(f"{file} does not exist; {remedy}") from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{file} is not UTF-8 text (byte {error.start}); {remedy}") from None
    rows = []
    for number, row in iter_jsonl(text.removeprefix("\ufeff"), refuse):
        if not isinstance(row, dict):
            raise ArtifactError(f"line {number} of {file} is a {type(row).__name__}, not an object; {remedy}")
        rows.append(row)
    return rows


def json_line(row: Mapping[str, JsonValue], encoding: str = "utf-8") -> str:
    """One row; characters outside of ASCII are escaped if `encoding` is not a UTF."""
    text = json.dumps(row, ensure_ascii=not encoding.lower().startswith("utf"))
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, from an answer cut within a character.
        text = json.dumps(row)
    return text + "\n"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, JsonValue]]) -> None:
    with write_whole(path) as beside:
        beside.write_text("".join(map(json_line, rows)), encoding="utf-8", newline="\n")
