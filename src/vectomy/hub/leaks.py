"""Search for secrets in files before they are published: access tokens and paths of this machine. A
leak names the place, never the value.

Every byte of every file is searched for tokens (by pattern and by the values in this environment)
and for the folders of this machine. Text files and the headers of safetensors files are also
searched for other keys and for home folders of any machine; those patterns are so short that they
occur in weights by chance.
"""

from __future__ import annotations

import json
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from vectomy.checkpoint.safetensors_header import HEADER_LIMIT
from vectomy.core.errors import LeakError
from vectomy.hub.client import secrets

__all__ = ["Leak", "check_leaks", "find_leaks"]

BLOCK = 1 << 22
# Longer than any token or path, so that no block boundary cuts one apart.
OVERLAP = 1 << 10
SHAPES = {
    # 34 letters and digits today; 30 do not occur in weights by chance (1 in 62^30).
    "a Hugging Face token": re.compile(rb"hf_(?:[a-z]+_)?[A-Za-z0-9]{30,}"),
}
TEXT_SHAPES = {
    "a Hugging Face token": re.compile(rb"hf_(?:[a-z]+_)?[A-Za-z0-9]{20,}|\bapi_org_[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    "an API key": re.compile(rb"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z0-9_-]*[0-9])[A-Za-z0-9_-]{20,}"),
    "an AWS key": re.compile(rb"\bAKIA[0-9A-Z]{16}\b"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an authorization header": re.compile(
        rb"(?i)\bauthorization['\"]?\s*[:=]\s*['\"]?bearer\s+[\w.~+/-]{12,}"
    ),
}
# Home folders of any system, with / or \ (doubled in JSON).
HOMES = re.compile(rb"(?<![\w./~-])(?:/home/[\w.-]+/|/Users/[\w.-]+/|/root/|[A-Za-z]:\\{1,2}Users\\{1,2})")
# Vocabularies, in which a token may look like the start of a path.
VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"}
PACKED = {".safetensors", ".gguf"}


@dataclass(frozen=True)
class Leak:
    """One secret: the name of its file in the repository, its line (text files), and its kind."""

    file: str
    line: int | None
    what: str
    token: bool

    def __str__(self) -> str:
        return f"{self.file}{f', line {self.line}' if self.line else ''}: {self.what}"


def find_leaks(name: str, source: Path | bytes, own: Sequence[PurePath] = ()) -> list[Leak]:
    """The secrets in one file.

    Args:
        name: the file's name in the repository; it is searched too.
        own: further folders of this machine to search for, besides home and working folder.
    """
    values = [value.encode() for value in secrets()]
    in_name = {what for what, _ in _find_tokens(name.encode(), True, values)}
    label = "a file with a token in its name" if in_name else name
    leaks = {Leak(label, None, what, True) for what in in_name}
    plain, packed = _is_text(source), PurePosixPath(name).suffix in PACKED
    for text, start, block in _blocks(source, plain, packed):
        for what, offset in _find_tokens(block, text, values):
            leaks.add(Leak(label, start + block.count(b"\n", 0, offset) if plain else None, what, True))
        for what, offset in _find_paths(block, own, text and PurePosixPath(name).name not in VOCABULARIES):
            leaks.add(Leak(label, start + block.count(b"\n", 0, offset) if plain else None, what, False))
    return sorted(leaks, key=lambda leak: (leak.file, leak.line or 0, leak.what))


def check_leaks(leaks: Sequence[Leak], allow_paths: bool = False) -> None:
    """Raise a LeakError that names the files; paths can be allowed, tokens never."""
    forbidden = [leak for leak in leaks if leak.token or not allow_paths]
    if not forbidden:
        return
    shown = "; ".join(str(leak) for leak in forbidden[:5])
    more = f"; and {len(forbidden) - 5} more" if len(forbidden) > 5 else ""
    remedy = (
        "Take the token out of the file (and revoke it, if others have seen it)"
        if any(leak.token for leak in forbidden)
        else "Take the path out of the file, or pass --allow-paths to publish it"
    )
    raise LeakError(f"nothing was sent, because the files hold secrets. {shown}{more}. {remedy}")


def _find_tokens(block: bytes, text: bool, values: Sequence[bytes]) -> Iterator[tuple[str, int]]:
    for what, shape in (TEXT_SHAPES if text else SHAPES).items():
        for match in shape.finditer(block):
            yield what, match.start()
    for value in values:
        offset = block.find(value)
        while offset >= 0:
            yield "a token or key of this environment", offset
            offset = block.find(value, offset + 1)


def _find_paths(block: bytes, own: Sequence[PurePath], homes: bool) -> Iterator[tuple[str, int]]:
    """Kind and offset of the paths of this machine, and with `homes` of any home folder."""
    if homes:
        for match in HOMES.finditer(block):
            yield "the path of a home folder", match.start()
    for folder in _private_folders(own):
        offset = block.find(folder)
        while offset >= 0:
            yield "a path of this machine", offset
            offset = block.find(folder, offset + 1)


def _private_folders(more: Sequence[PurePath]) -> list[bytes]:
    """Folders of this machine as written in a text; `/` and folders of one part are no secret."""
    folders = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()).resolve(), *more}
    private = [folder for folder in folders if len(folder.parts) > 2]
    return sorted({os.fsencode(text) for folder in private for text in _spell(folder)})


def _spell(folder: PurePath) -> list[str]:
    r"""A folder as texts write it before the name of a file: of Windows with \, with \\ (JSON) and
    with /.
    """
    if not isinstance(folder, PureWindowsPath):
        return [f"{folder}/"]
    return [f"{folder}\\", f"{folder}\\".replace("\\", "\\\\"), f"{folder.as_posix()}/"]


def _is_text(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return b"\0" not in source[:8192]
    with source.open("rb") as file:
        return b"\0" not in file.read(8192)


def _blocks(source: Path | bytes, plain: bool, packed: bool) -> Iterator[tuple[bool, int, bytes]]:
    """Overlapping blocks: whether the block is text, the number of its first line, its bytes."""
    if not plain and packed and (header := _header(source)):
        yield True, 1, header
    line, tail = 1, b""
    for block in _read(source):
        joined = tail + block
        yield plain, line, joined
        tail = joined[-OVERLAP:]
        line += joined.count(b"\n", 0, len(joined) - len(tail))


def _read(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _header(source: Path | bytes) -> bytes:
    """The header of a safetensors file, followed by its metadata without JSON escapes."""
    if isinstance(source, bytes):
        start = source[:8]
    else:
        with source.open("rb") as file:
            start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= HEADER_LIMIT:
        return b""
    if isinstance(source, bytes):
        raw = source[8 : 8 + length]
    else:
        with source.open("rb") as file:
            file.seek(8)
            raw = file.read(length)
    try:
        return raw + b"\n" + "\n".join((json.loads(raw).get("__metadata__") or {}).values()).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return raw
