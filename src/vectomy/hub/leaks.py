"""What must not be published: access tokens, and the paths of this machine. Values that are found
are never repeated.

Looked for in every byte of every file: tokens by their shape and by the very values of this
environment, and the folders of this machine. In texts and the headers of safetensors files also
other keys, and home folders of any machine; among the bytes of weights patterns as short as these
come up by chance.
"""

from __future__ import annotations

import json
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vectomy.checkpoint.index import HEADER_LIMIT
from vectomy.core.errors import LeakError
from vectomy.hub.client import secrets

__all__ = ["Leak", "check_leaks", "find_leaks"]

BLOCK = 1 << 22
# Longer than any token or path that is looked for, so that none is cut apart.
OVERLAP = 1 << 10
SHAPES = {
    # 34 letters and digits today; 30 do not come up by chance in weights (one in 62^30).
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
# Home folders wherever they are; written with / or with \ (doubled in JSON).
HOMES = re.compile(rb"(?<![\w./~-])(?:/home/[\w.-]+/|/Users/[\w.-]+/|/root/|[A-Za-z]:\\{1,2}Users\\{1,2})")
# Of vocabularies: tokens may look like the start of a path.
VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"}
PACKED = {".safetensors", ".gguf"}


@dataclass(frozen=True)
class Leak:
    """Where something was found: the file as it would be called in the repository, its line
    (texts), and what it is.
    """

    file: str
    line: int | None
    what: str
    token: bool

    def __str__(self) -> str:
        return f"{self.file}{f', line {self.line}' if self.line else ''}: {self.what}"


def find_leaks(name: str, source: Path | bytes, own: Sequence[Path] = ()) -> list[Leak]:
    """What must not be published in one file.

    Args:
        name: the file's name in the repository; it is looked at as well.
        own: further folders of this machine, whose paths are looked for beside the home and the
            working folder.
    """
    values = [value.encode() for value in secrets()]
    named = {what for what, _ in _tokens(name.encode(), True, values)}
    label = "a file with a token in its name" if named else name
    leaks = {Leak(label, None, what, True) for what in named}
    plain, packed = _is_text(source), PurePosixPath(name).suffix in PACKED
    for text, start, block in _blocks(source, plain, packed):
        for what, at in _tokens(block, text, values):
            leaks.add(Leak(label, start + block.count(b"\n", 0, at) if plain else None, what, True))
        for what, at in _paths(block, own, text and PurePosixPath(name).name not in VOCABULARIES):
            leaks.add(Leak(label, start + block.count(b"\n", 0, at) if plain else None, what, False))
    return sorted(leaks, key=lambda leak: (leak.file, leak.line or 0, leak.what))


def check_leaks(leaks: Sequence[Leak], allow_paths: bool = False) -> None:
    """Raises LeakError that names the files; paths may be allowed, tokens never."""
    stopping = [leak for leak in leaks if leak.token or not allow_paths]
    if not stopping:
        return
    shown = "; ".join(str(leak) for leak in stopping[:5])
    more = f"; and {len(stopping) - 5} more" if len(stopping) > 5 else ""
    remedy = (
        "Take the token out of the file (and revoke it, if others have seen it)"
        if any(leak.token for leak in stopping)
        else "Take the path out of the file, or say --allow-paths if it may be published"
    )
    raise LeakError(f"nothing was sent, since it would publish what must stay here. {shown}{more}. {remedy}")


def _tokens(block: bytes, text: bool, values: Sequence[bytes]) -> Iterator[tuple[str, int]]:
    for what, shape in (TEXT_SHAPES if text else SHAPES).items():
        for found in shape.finditer(block):
            yield what, found.start()
    for value in values:
        at = block.find(value)
        while at >= 0:
            yield "a token or key of this environment", at
            at = block.find(value, at + 1)


def _paths(block: bytes, own: Sequence[Path], homes: bool) -> Iterator[tuple[str, int]]:
    """Paths of this machine, and with `homes` of any; what is found is not repeated."""
    if homes:
        for found in HOMES.finditer(block):
            yield "the path of a home folder", found.start()
    for folder in _own(own):
        at = block.find(folder)
        while at >= 0:
            yield "a path of this machine", at
            at = block.find(folder, at + 1)


def _own(more: Sequence[Path]) -> list[bytes]:
    """Folders of this machine, as a text would hold them; not `/` nor what has one part, which are
    no secret.
    """
    folders = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()).resolve(), *more}
    return sorted(os.fsencode(f"{folder}/") for folder in folders if len(folder.parts) > 2)


def _is_text(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        return b"\0" not in source[:8192]
    with source.open("rb") as file:
        return b"\0" not in file.read(8192)


def _blocks(source: Path | bytes, plain: bool, packed: bool) -> Iterator[tuple[bool, int, bytes]]:
    """Overlapping blocks: whether it is text, its first line's number, and its bytes."""
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
    """The header of a safetensors file with its texts unescaped, so that paths and keys look as
    they are meant.
    """
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
