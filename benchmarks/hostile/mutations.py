"""Damage that knows no format but JSON: odd values, jumbled bytes, and what is no file."""

from __future__ import annotations

import functools
import json
import math
import os
import random
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["ODD", "at", "damage_text", "dumps", "fresh", "jumbled", "places", "restructured", "special"]

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    5,
    97,
    3.5,
    1e308,
    -0.0,
    1e-320,
    10**18,
    -(10**18),
    2**31,
    2**63,
    2**64,
    10**40,
    math.nan,
    math.inf,
    -math.inf,
    "",
    " ",
    "x",
    "0",
    "../x",
    "../../x",
    "/x",
    "..",
    ".",
    "a/b",
    "a\\b",
    "nul\0",
    "line\nbreak",
    "\ud800",
    "é\u202e",
    "n" * 300,
    "n" * 70_000,
    [],
    [[]],
    {},
    {"x": {}},
    [None],
    [0, 0],
    [-1, 128],
    [128, 128, 128],
    [2**70, 1],
    ["128", 1],
    "128x128",
    "1x" * 9,
    "0x0",
    "²x²",
    [1, 2, 3],
    {"quant_method": []},
    "@deep",
    "@digits",
    "@huge",
)


def dumps(value: Any) -> str:
    """JSON that holds what json.dumps cannot write: a key twice, nesting without end, numbers of
    any length.
    """
    text = json.dumps(value)
    for marker, raw in (
        ("@deep", "[" * 100_000 + "]" * 100_000),
        ("@digits", "9" * 6000),
        ("@huge", "1e400"),
    ):
        text = text.replace(f'"{marker}"', raw)
    while "@twice:" in text:
        text = text.replace("@twice:", "", 1)
    return text


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inner, (*path, key))


def at(value: Any, path: Iterable[Any]) -> Any:
    return functools.reduce(lambda inner, key: inner[key], path, value)


def fresh(value: Any) -> Any:
    """A copy in which nothing stands twice, so that one change of it is one change."""
    return json.loads(json.dumps(value))


def restructured(value: Any, rng: random.Random) -> Any:
    """One odd thing somewhere in a JSON value."""
    value = fresh(value)
    everywhere = list(places(value))
    # A depth first, so that the few outer keys are hit as often as the many inner ones.
    depth = rng.choice(sorted({len(path) for path in everywhere}))
    path = rng.choice([path for path in everywhere if len(path) == depth])
    if not path:
        return rng.choice(ODD)
    holder, key = at(value, path[:-1]), path[-1]
    old = holder[key]
    how = rng.choice(["odd", "odd", "odd", "drop", "rename", "twice", "swap", "wrap", "nudge"])
    if how == "drop":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[str(rng.choice([odd for odd in ODD if isinstance(odd, str)]))] = holder.pop(key)
    elif how == "twice" and isinstance(holder, dict):
        holder[f"@twice:{key}"] = rng.choice([old, old, rng.choice(ODD)])
    elif how == "swap":
        other = rng.choice([path for path in everywhere if len(path) == depth])
        holder[key], at(value, other[:-1])[other[-1]] = at(value, other), old
    elif how == "wrap":
        holder[key] = rng.choice([[old], {"x": old}, str(old)])
    elif how == "nudge" and type(old) in (int, float):
        holder[key] = old + rng.choice([-1, 1, 0.5, 1000, -old, 2**62])
    else:
        holder[key] = rng.choice(ODD)
    return value


def jumbled(data: bytes, rng: random.Random) -> bytes:
    """Damage that knows nothing of the format; most of it where a file begins, as that is what is
    parsed.
    """
    if not data:
        return rng.randbytes(9)
    data, reach = bytearray(data), min(len(data), 3000)
    how = rng.choice(
        ["flip", "flip", "flip", "cut", "empty", "insert", "zeros", "random", "repeat", "length"]
    )
    if how == "flip":
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(rng.choice([reach, len(data)]))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[rng.randrange(rng.choice([reach, len(data)])) :]
    elif how == "empty":
        data.clear()
    elif how == "insert":
        spot = rng.randrange(reach)
        data[spot:spot] = rng.choice(
            [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 5000, b"\n", b"9" * 5000, b'"', rng.randbytes(9)]
        )
    elif how == "zeros":
        spot = rng.randrange(reach)
        data[spot : spot + 64] = bytes(len(data[spot : spot + 64]))
    elif how == "random":
        data[:] = rng.randbytes(rng.choice([1, 7, 8, 9, 100]))
    elif how == "repeat":
        data += bytes(data)
    else:
        data[:8] = struct.pack(
            "<Q", rng.choice([0, 1, 2, len(data), 10**8, 10**8 + 1, 2**31, 2**32, 2**63, 2**64 - 1])
        )
    return bytes(data)


def special(file: Path, rng: random.Random, size: int = 200 << 20) -> None:
    """Something else than a file under the file's name."""
    file.unlink()
    how = rng.choice(["none", "folder", "dangling", "loop", "fifo", "zero", "sparse", "locked"])
    if how == "folder":
        file.mkdir()
    elif how == "fifo":
        os.mkfifo(file)
    elif how == "sparse":
        with file.open("wb") as sparse:
            sparse.truncate(size)
    elif how == "locked":
        file.touch(mode=0)
    elif how != "none":
        file.symlink_to({"dangling": "nowhere", "loop": file.name, "zero": "/dev/zero"}[how])


def damage_text(file: Path, rng: random.Random) -> None:
    """One odd thing in a file of text or JSON, or bytes that were jumbled, or no file at all."""
    how = rng.random()
    if how < 0.04:
        special(file, rng, 40 << 20)
        return
    raw = file.read_bytes()
    # Never through a name: what it points to is the untouched base.
    file.unlink()
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if how < 0.4 or not isinstance(value, dict | list):
        file.write_bytes(jumbled(raw, rng))
        return
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if isinstance(value, dict | list):
            value = restructured(value, rng)
    file.write_bytes(dumps(value).encode("utf-8", "surrogatepass"))
