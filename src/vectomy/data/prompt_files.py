"""Reads prompt files of every kind into rows.

A file is text or Parquet, and may be packed by gzip. Text is UTF-8, or UTF-16 or UTF-32 with a byte
order mark. A line ends at a line feed (with or without a carriage return) and nowhere else: U+2028,
U+2029 and U+0085 belong to the prompt.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TypeGuard

from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.core.jsonl import iter_jsonl, split_lines
from vectomy.core.packages import describe_missing
from vectomy.core.write_errors import NO_RIGHT

__all__ = ["SUFFIXES", "clip", "has_parquet_mark", "match_column", "read_file"]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
COLUMNS = (
    *("text", "prompt", "instruction", "goal", "question", "messages"),
    *("conversations", "conversation", "behavior", "behaviour", "query", "request", "user_prompt"),
    *("forbidden_prompt", "prompts", "questions", "instructions", "behaviors", "turns", "problem"),
    *("user_input", "user", "input", "content", "sentence"),
)
"""The usual names of the column with the prompts; the first that exists is taken."""
DELIMITERS = (",", ";", "\t", "|")
# No prompt file is larger; a small packed file could otherwise fill the memory.
LARGEST = 1 << 30
PIECE = 1 << 20
MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    # Before UTF-16, whose mark begins this one.
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
PARQUET = b"PAR1"
# What a file is whose first bytes are these, and what to do.
NOT_PROMPTS = (
    (b"PK\x03\x04", "is a spreadsheet or an archive; save the sheet as CSV (UTF-8), or unpack it"),
    (b"\xd0\xcf\x11\xe0", "is an old spreadsheet; save it as CSV (UTF-8)"),
    (b"%PDF-", "is a PDF; copy its prompts into a .txt file, one a line"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    *(
        (start, "is a web page; download the file itself (the raw file)")
        for start in (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML")
    ),
    (b"ARROW1\0\0", "is an Arrow file; write it as Parquet or JSON lines"),
    (b"\x28\xb5\x2f\xfd", "is packed by zstd; unpack it first"),
    (b"BZh91AY", "is packed by bzip2; unpack it first, or pack it by gzip"),
)


def read_file(path: Path) -> list[JsonObject]:
    """The rows of a file as objects, whatever the case of its suffix.

    Raises:
        PromptError: the file cannot be read, is of another kind, or does not parse; the message
            gives the row or line.
    """
    try:
        data = _read_bytes(path)
    except (OSError, EOFError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        remedy = NO_RIGHT if isinstance(error, PermissionError) else f"{why}; copy or download it again"
        raise PromptError(f"the prompt file {path} cannot be read: {remedy}") from None
    kind = _kind(path)
    if data[:4] == PARQUET or kind == ".parquet":
        return _parquet_rows(path, data)
    if kind not in SUFFIXES:
        raise PromptError(
            f"the prompt file {path} has {f'the unknown suffix {kind}' if kind else 'no suffix'}; use "
            f"{', '.join(SUFFIXES)}, all of them also with .gz"
        )
    text = _decode(path, data)
    if kind == ".txt":
        return [{"text": line} for _, line in split_lines(text)]
    if kind in (".csv", ".tsv"):
        return _table_rows(path, text, "\t" if kind == ".tsv" else None)
    lines = kind != ".json"
    try:
        return _objects(path, _json_lines(path, text) if lines else _json_rows(path, text))
    # ValueError: not JSON, or a number with more digits than Python accepts.
    except (ValueError, RecursionError) as error:
        raise PromptError(
            f"the prompt file {path} does not parse as JSON: {error}. Mend it there, or write one prompt a "
            "line into a .txt file"
        ) from None


def match_column(columns: Sequence[str], asked: str = "") -> str | None:
    """The column `asked` for, or the first of the usual names that exists; case, spaces and dashes
    do not count.
    """

    def plain(name: str) -> str:
        return re.sub(r"[\s-]+", "_", str(name).strip().casefold())

    if asked and asked in columns:
        return asked
    # The exact name before one that only case tells from it.
    by_name = {plain(name): name for name in [*reversed(columns), *(n for n in columns if n in COLUMNS)]}
    for name in (asked,) if asked else COLUMNS:
        if plain(name) in by_name:
            return by_name[plain(name)]
    return None


def clip(text: str, width: int = 60) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        source: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=file) if packed else file
        data = bytearray()
        # Piece by piece: a read of a size takes that much memory, however small the file is.
        while piece := source.read(PIECE):
            data += piece
            if len(data) > LARGEST:
                raise PromptError(
                    f"the prompt file {path} is larger than {LARGEST >> 20} MiB; take a part of it"
                )
    return bytes(data)


def _decode(path: Path, data: bytes) -> str:
    for start, reason in NOT_PROMPTS:
        if data.startswith(start):
            raise PromptError(f"the prompt file {path} {reason}")
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    if encoding is None:
        # UTF-16 without its mark: every other byte of plain English is zero.
        head = data[:400]
        halves = {"utf-16-be": head[::2], "utf-16-le": head[1::2]}
        encoding = next((name for name, half in halves.items() if half.count(0) * 2 > len(half)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PromptError(
            f"the prompt file {path} is not {'UTF-8' if encoding.startswith('utf-8') else encoding.upper()} "
            f"text (line {line}, byte {error.start}); save it as UTF-8 (in a spreadsheet: CSV UTF-8)"
        ) from None
    if "\0" in text:
        line = text.partition("\0")[0].count("\n") + 1
        raise PromptError(f"the prompt file {path} is not text: line {line} has a NUL byte; save it as UTF-8")
    return text


# JSON


def _json_lines(path: Path, text: str) -> list[JsonValue]:
    return [row for _, row in iter_jsonl(text, partial(_no_json, path))]


def _no_json(path: Path, number: int, why: str) -> PromptError:
    if number == 1 and path.suffix.lower() != ".json":
        why += "; a file with one list or object over several lines is named .json"
    return PromptError(
        f"the prompt file {path} does not parse: line {number} is not JSON ({why}). Mend that line, or "
        "write one prompt a line into a .txt file"
    )


def _json_rows(path: Path, text: str) -> JsonValue:
    """The rows of a .json file: a list, JSON lines, or one of the objects that pandas and the Hub
    write.
    """
    if not text.strip():
        return []
    try:
        value: JsonValue = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return _json_lines(path, text)
    return _table_in(value) if isinstance(value, Mapping) else value


def _table_in(value: Mapping[str, JsonValue]) -> JsonValue:
    """The rows that an object holds; the object itself if it holds none."""
    columns, data = value.get("columns"), value.get("data")
    if _is_list(columns) and _is_list(data):
        # pandas, orient="split"
        return [dict(zip(map(str, columns), row, strict=False)) if _is_list(row) else row for row in data]
    for name in ("data", "rows", "prompts", "examples", "instances", "train"):
        rows = value.get(name)
        if _is_list(rows) and rows and all(isinstance(row, (Mapping, str)) for row in rows):
            # The Hub's viewer puts each row into an object that numbers it.
            return [
                row["row"] if isinstance(row, Mapping) and isinstance(row.get("row"), Mapping) else row
                for row in rows
            ]
    # pandas, orient="columns" (its default) and "list"
    parts = [list(part.values()) if isinstance(part, Mapping) else part for part in value.values()]
    lists = [part for part in parts if _is_list(part)]
    if lists and len(lists) == len(value) and len({len(part) for part in lists}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
    return value


def _is_list(value: JsonValue) -> TypeGuard[list[JsonValue]]:
    return isinstance(value, list)


def _objects(path: Path, rows: JsonValue) -> list[JsonObject]:
    """Rows that are objects or plain strings, as objects."""
    if not isinstance(rows, list):
        raise PromptError(
            f"the prompt file {path} contains a {type(rows).__name__}, not a list of rows; write a list of "
            'texts, or of objects such as {"prompt": "..."}'
        )
    result: list[JsonObject] = []
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            result.append({"text": row})
        elif isinstance(row, dict):
            result.append(row)
        else:
            raise PromptError(
                f"row {number} of the prompt file {path} is {clip(repr(row))}, neither an object nor a text"
            )
    return result


# Tables


def _table_rows(path: Path, text: str, delimiter: str | None) -> list[JsonObject]:
    """The rows of a table with a header. A row with more or fewer fields than the header is
    refused: a comma without quotes would cut its prompt.
    """
    named = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)
    if named:
        # A spreadsheet's own first line.
        delimiter, text = named[1], text[named.end() :]
    delimiter = delimiter or _find_delimiter(text)
    csv.field_size_limit(LARGEST)
    if text.lstrip().startswith(('{"', "[{", "{ ")):
        raise PromptError(
            f"the prompt file {path} holds JSON, not a table; name it .jsonl (an object a line) or .json"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows: list[JsonObject] = []
    try:
        for fields in reader:
            if not fields or (not any(fields) and len(fields) == 1):
                continue
            if header is None:
                header = _check_header(path, [name.strip() for name in fields])
            elif len(fields) != len(header):
                raise PromptError(_misfit(path, len(rows) + 1, reader.line_num, fields, header, delimiter))
            else:
                rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise PromptError(
            f"the prompt file {path} does not parse: line {reader.line_num}: {error}. A quoted prompt begins "
            'and ends with ", and a quote within it is written twice ("")'
        ) from None
    return rows


def _find_delimiter(text: str) -> str:
    """The delimiter that gives the header a column of a usual name, and the most columns."""
    first = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]

    def score(delimiter: str) -> tuple[bool, int]:
        names = next(csv.reader([first], delimiter=delimiter), [])
        return match_column(names) is not None, len(names)

    return max(DELIMITERS, key=score)


def _check_header(path: Path, header: list[str]) -> list[str]:
    double = next((name for name in header if name and header.count(name) > 1), None)
    if double is not None:
        raise PromptError(f"the header of {path} has the column '{clip(double)}' twice; rename one")
    return header


def _misfit(
    path: Path, number: int, line: int, fields: Sequence[str], header: Sequence[str], delimiter: str
) -> str:
    name = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}.get(delimiter, f"'{delimiter}'")
    remedy = (
        f'put prompts that contain a {name} into quotes ("..."), or use a .txt file with one prompt a line'
        if len(fields) > len(header)
        else f"a field is missing; fields are divided by a {name}"
    )
    return (
        f"row {number} (line {line}) of the prompt file {path} has {len(fields)} fields and the header has "
        f"{len(header)} ({clip(', '.join(header))}): {clip(delimiter.join(fields))}. To mend it, {remedy}"
    )


def has_parquet_mark(path: Path) -> bool:
    """Whether a file begins as Parquet does; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(PARQUET)) == PARQUET
    except OSError:
        return False


def _parquet_rows(path: Path, data: bytes) -> list[JsonObject]:
    if data[:4] != PARQUET:
        raise PromptError(
            f"the prompt file {path} is no Parquet file (it does not begin with PAR1); give it the suffix of "
            f"what it is, one of {', '.join(SUFFIXES)}"
        )
    if missing := describe_missing(f"reading the Parquet file {path}", "pyarrow"):
        raise PromptError(f"{missing}; or save it as .jsonl or .csv")
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[JsonObject] = pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise PromptError(
            f"the prompt file {path} does not parse as Parquet: {clip(str(error), 200).rstrip('.')}; "
            "download it again"
        ) from None
    return rows
