"""The safetensors header: read it, check it and list its tensors.

The layout (https://huggingface.co/docs/safetensors): 8 bytes of little-endian header length, a JSON
header {name: {dtype, shape, data_offsets}}, then the data. The header is parsed here because an
edit keeps every other byte.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from vectomy.checkpoint.folder_kind import name_remedy
from vectomy.core.errors import CheckpointError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.core.text_file import check_regular
from vectomy.core.write_errors import NO_RIGHT

__all__ = [
    "DTYPE_BITS",
    "HEADER_LIMIT",
    "Shard",
    "TensorEntry",
    "is_printable_name",
    "read_shard",
    "unique_keys",
]

# The library's own bound on a header (100 MB).
HEADER_LIMIT = 100_000_000
# Of a tensor's or a file's name: messages and new headers repeat it.
NAME_LIMIT = 500
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


def is_printable_name(text: str) -> bool:
    """Whether a message can quote the name and a file can hold it: no control characters, no lone
    surrogates.
    """
    return 0 < len(text) <= NAME_LIMIT and text.isprintable()


def unique_keys(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    """A JSON object, for `json.loads`. Raises ValueError for a key that occurs twice, of which
    readers take the first or the last as they please.
    """
    result = dict(pairs)
    if len(result) < len(pairs):
        last = {key: place for place, (key, _) in enumerate(pairs)}
        twice = next(key for place, (key, _) in enumerate(pairs) if last[key] != place)
        raise ValueError(f"it holds {twice!r:.200} twice")
    return result


def read_shard(folder: Path, name: str) -> Shard:
    """Parse and check one file's header.

    Raises:
        CheckpointError: no file, or a header that does not parse or contradicts the file.
    """
    path = folder / name
    header, size = _read_header(path)
    try:
        listing = json.loads(header, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the header of shard {path} does not parse ({error}); {name_remedy(path.parent)}"
        ) from None
    if not isinstance(listing, dict):
        raise CheckpointError(f"the header of shard {path} is not a JSON object; {name_remedy(path.parent)}")
    metadata = listing.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(
            f"the header of shard {path} has a __metadata__ that is not an object of strings; "
            f"{name_remedy(path.parent)}"
        )
    entries = [_read_entry(path, tensor, row, 8 + len(header)) for tensor, row in listing.items()]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    end = 8 + len(header)
    for entry in entries:
        if entry.start != end:
            raise CheckpointError(
                f"tensor '{entry.name}' of shard {path} overlaps another or leaves a gap; the file is "
                f"damaged; {name_remedy(path.parent)}"
            )
        end = entry.end
    if end != size:
        raise CheckpointError(
            f"shard {path} has {size} bytes where its header says {end}; it is truncated or damaged; "
            f"{name_remedy(path.parent)}"
        )
    return Shard(name, size, header, tuple(entries))


def _read_header(path: Path) -> tuple[bytes, int]:
    """The header as written, and the size of the file."""
    folder = path.parent
    try:
        check_regular(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= HEADER_LIMIT or 8 + length > size:
                raise CheckpointError(
                    f"shard {path} is not a whole safetensors file (header of {length} bytes in a file of "
                    f"{size}); {name_remedy(path.parent)}"
                )
            return file.read(length), size
    except (FileNotFoundError, UnicodeEncodeError):
        raise CheckpointError(
            f"shard {path!s:.300} is missing though the index names it; {name_remedy(folder)}"
        ) from None
    except PermissionError:
        raise CheckpointError(f"shard {path!s:.300} cannot be read: {NO_RIGHT}") from None
    except OSError as error:
        raise CheckpointError(
            f"shard {path!s:.300} cannot be read ({error.strerror}); {name_remedy(folder)}"
        ) from None


def _read_entry(path: Path, tensor: str, row: JsonValue, data_start: int) -> TensorEntry:
    """One row of the header, its offsets compared with its dtype and shape."""
    if not is_printable_name(tensor):
        raise CheckpointError(
            f"the header of shard {path} names a tensor {tensor!r:.200}, which is empty, not printable or "
            f"longer than {NAME_LIMIT} characters; {name_remedy(path.parent)}"
        )
    row = row if isinstance(row, dict) else {}
    dtype, shape, offsets = (row.get(key) for key in ("dtype", "shape", "data_offsets"))
    if (
        not isinstance(dtype, str)
        or dtype not in DTYPE_BITS
        or not _are_counts(shape, AXES)
        or not _are_counts(offsets, 2)
        or len(offsets) != 2
    ):
        raise CheckpointError(
            f"the header of shard {path} describes tensor '{tensor}' wrongly ({row!r:.120}); "
            f"{name_remedy(path.parent)}"
        )
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * DTYPE_BITS[dtype]:
        raise CheckpointError(
            f"tensor '{tensor}' of shard {path} has {end - start} bytes, which is not {dtype} of shape "
            f"{shape!s:.200}; the file is damaged; {name_remedy(path.parent)}"
        )
    return TensorEntry(tensor, path.name, dtype, tuple(shape), data_start + start, data_start + end)


def _are_counts(values: JsonValue, most: int) -> TypeGuard[list[int]]:
    return (
        isinstance(values, list)
        and len(values) <= most
        and all(type(value) is int and value >= 0 for value in values)
    )
