"""Open a model folder: check that it is whole and safe, and list its tensors. Reads headers, never
weights.

The safetensors layout (https://huggingface.co/docs/safetensors): 8 bytes of little-endian header
length, a JSON header {name: {dtype, shape, data_offsets}}, then the data. The header is parsed here
because an edit keeps every other byte.
"""

from __future__ import annotations

import errno
import json
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vectomy.core.errors import CheckpointError, UnsafeCheckpointError
from vectomy.core.json_value import JsonObject

__all__ = ["INDEX", "RECORDS", "Checkpoint", "Shard", "TensorEntry", "read_shard"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# A folder beside the weights for what vectomy recorded of them (record.py): no part of the model,
# and not true of a copy that is edited.
RECORDS = "vectomy"
# The library's own bound on a header (100 MB).
HEADER_LIMIT = 100_000_000
# Of a tensor's or a file's name: messages and new headers repeat it.
NAME_LIMIT = 500
WEIGHT_SUFFIXES = {
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".onnx",
    ".h5",
    ".msgpack",
    ".npz",
}
# As many as torch can hold.
AXES = 64
DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: bytes start to end of the shard file, counted from the file's
    beginning.
    """

    name: str
    shard: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its header as written, and its tensors in file order."""

    name: str
    size: int
    header: bytes
    tensors: tuple[TensorEntry, ...]

    @property
    def data_start(self) -> int:
        return 8 + len(self.header)


@dataclass(frozen=True)
class Checkpoint:
    """A checked model folder.

    `tensors` maps names to places; `index` is the parsed index file, or None when there is one
    file; `sidecars` are all other files (tokenizer, templates, code, image processors), by relative
    path, `other_weights` the same weights in other formats, which an edited copy must not carry
    along.
    """

    path: Path
    config: dict[str, Any]
    shards: tuple[Shard, ...]
    index: dict[str, Any] | None
    sidecars: tuple[str, ...]
    other_weights: tuple[str, ...]
    tensors: dict[str, TensorEntry]

    @property
    def bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    @classmethod
    def of(cls, source: str | Path | Checkpoint) -> Checkpoint:
        """A checkpoint that is open already, or the one in this folder. Raises as `open` does."""
        return source if isinstance(source, Checkpoint) else Checkpoint.open(source)

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Check a folder and list it.

        Raises:
            CheckpointError: no folder, no config.json or no weights; a shard that is missing,
                truncated or overlapping; an index that disagrees with its shards.
            UnsafeCheckpointError: pickle weights only, or an index that points outside the folder.
        """
        path = Path(path)
        if not path.is_dir():
            raise CheckpointError(
                f"model folder {path} does not exist (or is a file); give a folder with config.json and *.safetensors"
            )
        config = _read_object(path / "config.json", "every model folder needs it; was the download complete?")
        index, names = _shard_names(path)
        shards = tuple(read_shard(path, name) for name in names)
        tensors: dict[str, TensorEntry] = {}
        for shard in shards:
            for entry in shard.tensors:
                if entry.name in tensors:
                    raise CheckpointError(
                        f"tensor '{entry.name}' is in both {tensors[entry.name].shard} and {shard.name} of {path}"
                    )
                tensors[entry.name] = entry
        if index is not None:
            _check_weight_map(path, index["weight_map"], tensors)
        if not tensors:
            raise CheckpointError(f"the weights in {path} hold no tensor; was the download complete?")
        own = {"config.json", INDEX, *names}
        files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
        others = sorted(
            f.as_posix()
            for f in files
            if not any(p.startswith(".") for p in f.parts)
            and f.parts[0] != RECORDS
            and f.as_posix() not in own
        )
        weights = tuple(name for name in others if PurePosixPath(name).suffix in WEIGHT_SUFFIXES)
        return cls(
            path, config, shards, index, tuple(n for n in others if n not in weights), weights, tensors
        )


def _shard_names(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    # The single file first, as transformers does where both are there.
    if (path / SINGLE).exists():
        return None, [SINGLE]
    if (path / INDEX).exists():
        index = _read_object(path / INDEX, "delete it or download it again", pairs=_unique)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(
                f"{path / INDEX} has no 'weight_map' of tensor names to file names; download it again"
            )
        names = sorted(set(weight_map.values()))
        for name in names:
            if not _is_name(name) or "\\" in name or name in (".", "..") or PurePosixPath(name).name != name:
                raise UnsafeCheckpointError(
                    f"{path / INDEX} points to {name!r:.200}, which is not a file name in its own folder; it is refused"
                )
        return index, names
    strays = sorted(file.name for file in path.glob("*.safetensors"))
    if len(strays) == 1:
        return None, strays
    if strays:
        raise CheckpointError(
            f"{path} has {len(strays)} .safetensors files but no {INDEX}; download the index too"
        )
    pickles = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern)
    )
    if pickles:
        raise UnsafeCheckpointError(
            f"{path} holds pickle weights only ({pickles[0]}), which can run code when they are read; convert them to "
            "safetensors first"
        )
    raise CheckpointError(f"{path} holds no weights (no {SINGLE} and no {INDEX}); was the download complete?")


def _is_name(text: str) -> bool:
    """Whether a message can repeat it and a file can hold it: no control characters, no half of a
    character.
    """
    return 0 < len(text) <= NAME_LIMIT and text.isprintable()


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    """A JSON object without a key twice, of which readers take the first or the last as they
    please.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        last = {key: place for place, (key, _) in enumerate(pairs)}
        twice = next(key for place, (key, _) in enumerate(pairs) if last[key] != place)
        raise ValueError(f"it holds {twice!r:.200} twice")
    return found


def _check_regular(path: Path, limit: int | None = None) -> None:
    """Raises OSError for a pipe or a device, which may never end, and for a file larger than
    `limit`.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file")
    if limit is not None and path.stat().st_size > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes")


def _read_object(
    path: Path, remedy: str, pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    try:
        _check_regular(path, HEADER_LIMIT)
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=pairs)
        # Half of a character ("\\ud800") is JSON, but no file could hold it again.
        json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; {remedy}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    # ValueError: no JSON, no UTF-8, or a number of more digits than Python takes.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} does not parse as JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not an object; {remedy}")
    return value


def read_shard(folder: Path, name: str) -> Shard:
    """Parse and check one file's header."""
    path = folder / name
    try:
        _check_regular(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= HEADER_LIMIT or 8 + length > size:
                raise CheckpointError(
                    f"shard {path} is no whole safetensors file (header of {length} bytes in a file of {size}); download it again"
                )
            header = file.read(length)
    except (FileNotFoundError, UnicodeEncodeError):
        raise CheckpointError(
            f"shard {path!s:.300} is missing though the index names it; download it again"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"shard {path!s:.300} cannot be read ({error.strerror}); download it again"
        ) from None
    try:
        listing = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the header of shard {path} does not parse ({error}); download it again"
        ) from None
    if not isinstance(listing, dict):
        raise CheckpointError(f"the header of shard {path} is no object; download it again")
    metadata = listing.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(
            f"the header of shard {path} has a __metadata__ that is no object of texts; download it again"
        )
    entries = [_entry(path, tensor, row, 8 + length) for tensor, row in listing.items()]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    at = 8 + length
    for entry in entries:
        if entry.start != at:
            raise CheckpointError(
                f"tensor '{entry.name}' of shard {path} overlaps another or leaves a gap; the file is damaged"
            )
        at = entry.end
    if at != size:
        raise CheckpointError(
            f"shard {path} has {size} bytes where its header says {at}; it is truncated or damaged, download it again"
        )
    return Shard(name, size, header, tuple(entries))


def _entry(path: Path, tensor: str, row: Any, data_start: int) -> TensorEntry:
    """One header row, with its offsets held against its dtype and shape."""

    def whole(values: Any) -> bool:
        return isinstance(values, list) and all(
            isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values
        )

    if not _is_name(tensor):
        raise CheckpointError(
            f"the header of shard {path} names a tensor {tensor!r:.200}, which is empty, not printable or longer than {NAME_LIMIT} "
            "characters; download it again"
        )
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("dtype"), str)
        or row["dtype"] not in DTYPE_BITS
        or not whole(row.get("shape"))
        or len(row["shape"]) > AXES
        or not whole(row.get("data_offsets"))
        or len(row["data_offsets"]) != 2
    ):
        raise CheckpointError(
            f"the header of shard {path} describes tensor '{tensor}' wrongly ({row!r:.120}); download it again"
        )
    start, end = row["data_offsets"]
    if (end - start) * 8 != math.prod(row["shape"]) * DTYPE_BITS[row["dtype"]]:
        raise CheckpointError(
            f"tensor '{tensor}' of shard {path} has {end - start} bytes, which is not {row['dtype']} of shape {row['shape']!s:.200}"
        )
    return TensorEntry(
        tensor, path.name, row["dtype"], tuple(row["shape"]), data_start + start, data_start + end
    )


def _check_weight_map(path: Path, weight_map: dict[str, str], tensors: dict[str, TensorEntry]) -> None:
    for tensor, shard in weight_map.items():
        if tensor not in tensors:
            raise CheckpointError(
                f"{path / INDEX} says that {tensor!r:.200} is in {shard}, but that file does not hold it"
            )
        if tensors[tensor].shard != shard:
            raise CheckpointError(
                f"{path / INDEX} says that '{tensor}' is in {shard}, but it is in {tensors[tensor].shard}"
            )
    for tensor, entry in tensors.items():
        if tensor not in weight_map:
            raise CheckpointError(
                f"'{tensor}' is in {entry.shard} but not in {path / INDEX}; the index belongs to another version"
            )
