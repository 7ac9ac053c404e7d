"""Checkpoint folders whose header or index is changed, and what must become of opening them."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import file_hashes

from vectomy.checkpoint import Checkpoint, read_tensor
from vectomy.core.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.norm.weight"


def refuse_to_open(folder: Path, message: str, kind: type[CheckpointError] = CheckpointError) -> None:
    """Opening raises, and leaves every file as it was."""
    before = file_hashes(folder) if folder.is_dir() else {}
    with pytest.raises(kind, match=message):
        Checkpoint.open(folder)
    assert (file_hashes(folder) if folder.is_dir() else {}) == before


def list_shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def split_shard(file: Path) -> tuple[dict, bytes]:
    """The header and the data of a safetensors file."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite_header(file: Path, change: Callable[[dict], object]) -> None:
    header, data = split_shard(file)
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def rewrite_index(folder: Path, change: Callable[[dict], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def is_readable(folder: Path) -> bool:
    """False if refused; any other exception than CheckpointError fails the test."""
    try:
        opened = Checkpoint.open(folder)
        for name in opened.tensors:
            if opened.tensors[name].dtype == "F32":
                read_tensor(opened, name)
    except CheckpointError:
        return False
    return True


def damage(data: bytes, draw: random.Random) -> bytes:
    """With 1 to 50 changes, deletions or insertions, many of them in JSON's own characters."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5, 50])):
        at = draw.randrange(len(changed))
        kind = draw.random()
        if kind < 0.6:
            changed[at] = draw.choice(
                b'0123456789{}[],:"\\nulltrue-.eE ' if kind < 0.4 else bytes(range(256))
            )
        elif kind < 0.8:
            del changed[at : at + draw.choice([1, 3, 40])]
        else:
            changed[at:at] = draw.choice([b"9" * 20, b"[", b"null", b"1e999", b"\\ud800", b"NaN", b"-"])
        if not changed:
            return b""
    return bytes(changed)
