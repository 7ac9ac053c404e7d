"""Write a GGUF file again with some tensors changed; metadata and all other tensors keep their
bytes.

One stretch of one tensor is in memory at a time. The new file is written beside its place and
renamed when it is whole. Its head is written last: it is as long whatever the types are, and which
type holds an edited tensor shows only when it is made.
"""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vectomy.checkpoint.gguf.block_rounding import (
    BETTER,
    StoredBlocks,
    requantize_blocks,
    rounding_of,
    store_as,
)
from vectomy.checkpoint.gguf.blocks import dequantize_blocks
from vectomy.checkpoint.gguf.container import MAGIC, GgufFile, GgufTensor, bytes_of
from vectomy.checkpoint.ranges import Range, copy_range
from vectomy.core.errors import ArtifactError, CheckpointError, DiskFullError
from vectomy.core.output_path import check_file_output
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import write_whole

__all__ = ["Cost", "GgufAdded", "GgufChange", "check_new", "distance", "read_raw", "rewrite_gguf"]

# Values of a change by rows that are in memory at a time.
STRETCH = 1 << 24


@dataclass(frozen=True)
class GgufChange:
    """New values of one tensor, a matrix or (as its only row) a vector.

    `vectors`: "output" where its columns are vectors of the stream, "input" where its rows are;
    those are made in stretches of at most `stretch` values (or one row), so that what comes of a
    row must not depend on the others.
    """

    make: Callable[[Float[Tensor, "rows columns"]], Float[Tensor, "rows columns"]]
    vectors: Literal["output", "input"] = "output"
    store: Callable[..., StoredBlocks] = requantize_blocks
    stretch: int = STRETCH


@dataclass(frozen=True)
class GgufAdded:
    """A tensor that the source lacks: the bytes of `copy_of`, or float32 `values`."""

    name: str
    copy_of: str | None = None
    values: Tensor | None = None


@dataclass(frozen=True)
class Cost:
    """What storing an edited tensor cost."""

    type: str
    error: float
    """|stored - wanted| / |wanted|, Frobenius norms."""
    lost: float
    """Share of the change that is not stored, along the change of each vector: 1 where rounding
    undoes the edit. For the removal of one direction r it is |r W'| / |r W|.
    """


def rewrite_gguf(
    file: GgufFile,
    out: str | Path,
    changes: Mapping[str, GgufChange],
    *,
    added: Sequence[GgufAdded] = (),
    numbers: Mapping[str, int] | None = None,
    progress: Progress = silent,
) -> dict[str, Cost]:
    """Write the new file `out`; gives what each changed tensor cost.

    Args:
        numbers: metadata keys of a single number that get another one.

    Raises:
        ArtifactError: `out` is there already.
        CheckpointError: a tensor to be changed is not there, or a new value is no number.
        DiskFullError: checked before the first byte is written, and whenever writing fails.
    """
    out = Path(out).expanduser().absolute()
    check_new(out, file)
    missing = next((name for name in changes if name not in file.tensors), None)
    if missing is not None:
        raise CheckpointError(f"tensor '{missing}' is not in {file.path}, so it cannot be changed")
    writing = _Writing(file, changes, list(added), dict(numbers or {}))
    size = sum(tensor.end - tensor.start for tensor in file.tensors.values())
    with (
        write_whole(out) as beside,
        progress("writing", size, "bytes") as update,
        file.path.open("rb") as source,
        beside.open("wb+") as target,
    ):
        writing.write(source, target, update)
    return writing.costs


def check_new(out: Path, file: GgufFile | None = None) -> None:
    """Raises ArtifactError where something is already, DiskFullError without room for a file as
    large as `file`.
    """
    check_file_output(out)
    if out.exists():
        raise ArtifactError(f"the output file {out} exists; choose another or delete it")
    there = next(folder for folder in out.parents if folder.exists())
    needed, free = file.path.stat().st_size if file else 0, shutil.disk_usage(there).free
    if needed > free:
        raise DiskFullError(
            f"{there} has {free / 2**30:.2f} GiB free and the file takes {needed / 2**30:.2f} GiB; "
            "free some space"
        )


def distance(file: GgufFile, name: str, wanted: Float[Tensor, "rows columns"]) -> tuple[float, float]:
    """|stored - wanted| / |wanted| over the first rows of a tensor, and what rounding to its type
    explains of that.
    """
    tensor = file.tensors[name]
    with file.path.open("rb") as source:
        raw = read_raw(source, tensor, 0, len(wanted))
    result = (dequantize_blocks(raw, tensor.type) - wanted).norm() / wanted.norm()
    return float(result), rounding_of(raw, tensor.type)


def read_raw(source: BinaryIO, tensor: GgufTensor, first: int = 0, last: int | None = None) -> Any:
    """Rows of a tensor as uint8 [rows, bytes of a row]; a vector is one row, a stack of matrices
    one below the other.
    """
    count = math.prod(tensor.shape[:-1])
    width = (tensor.end - tensor.start) // count
    last = count if last is None else min(last, count)
    source.seek(tensor.start + first * width)
    raw = source.read((last - first) * width)
    if len(raw) != (last - first) * width:
        raise CheckpointError(
            f"'{tensor.name}' ended early while it was read; is something else writing to the file?"
        )
    return np.frombuffer(raw, np.uint8).reshape(last - first, width)


@dataclass
class _Writing:
    file: GgufFile
    changes: Mapping[str, GgufChange]
    added: list[GgufAdded]
    numbers: dict[str, int]

    def __post_init__(self) -> None:
        self.costs: dict[str, Cost] = {}
        self.placed: dict[str, GgufTensor] = {}

    def write(self, source: BinaryIO, target: BinaryIO, update: Callable[[int], None]) -> None:
        listed = [*self.file.tensors.values(), *(self._new(new) for new in self.added)]
        offset = start = self._align(self.file.keys_end + sum(len(_listing(tensor, 0)) for tensor in listed))
        contents = {new.name: new for new in self.added}
        for tensor in sorted(listed, key=lambda tensor: (tensor.name in contents, tensor.start)):
            new, change = contents.get(tensor.name), self.changes.get(tensor.name)
            if change is not None:
                kind = self._make(source, target, offset, tensor, change)
            elif new is not None and new.values is not None:
                kind = "F32"
                target.seek(offset)
                target.write(new.values.float().contiguous().numpy().tobytes())
            else:
                kind = tensor.type
                target.flush()
                for piece in Range("", tensor.start, offset, tensor.end - tensor.start).pieces():
                    copy_range(source, target, piece)
            end = offset + bytes_of(tensor.name, kind, tensor.shape)
            self.placed[tensor.name] = replace(tensor, type=kind, start=offset, end=end)
            offset = self._align(end)
            update(tensor.end - tensor.start)
        # Readers take the last tensor's padding for granted.
        target.truncate(offset)
        self._head(source, target, [self.placed[tensor.name] for tensor in listed], start)

    def _new(self, new: GgufAdded) -> GgufTensor:
        if new.copy_of is not None:
            return replace(self.file.tensors[new.copy_of], name=new.name)
        assert new.values is not None
        return GgufTensor(new.name, "F32", tuple(new.values.shape), 0, 0)

    def _make(
        self, source: BinaryIO, target: BinaryIO, offset: int, tensor: GgufTensor, change: GgufChange
    ) -> str:
        """Write the changed tensor; if one stretch of it needs another type than the first, all get
        the better one.
        """
        store = change.store
        while True:
            sums, chosen = [0.0] * 4, ""
            target.seek(offset)
            for raw in self._stretches(source, tensor, change):
                old = dequantize_blocks(raw, tensor.type)
                new = change.make(old.clone())
                stored = store(raw, tensor.type, old, new, change.vectors)
                if not math.isfinite(stored.error):
                    raise CheckpointError(
                        f"the edit gives '{tensor.name}' values that are not finite, or too large for "
                        f"{stored.type}; use a smaller strength"
                    )
                if chosen not in ("", stored.type):
                    store, chosen = store_as(BETTER), ""
                    break
                chosen = stored.type
                target.write(np.ascontiguousarray(stored.raw).data)
                costs = (stored.error, stored.wanted, stored.lost, stored.change)
                sums = [total + part for total, part in zip(sums, costs, strict=True)]
            if chosen:
                self.costs[tensor.name] = Cost(chosen, _share(sums[0], sums[1]), _share(sums[2], sums[3]))
                return chosen

    def _stretches(self, source: BinaryIO, tensor: GgufTensor, change: GgufChange) -> Iterator[Any]:
        count = math.prod(tensor.shape[:-1])
        step = count if change.vectors == "output" else max(1, change.stretch // tensor.shape[-1])
        return (read_raw(source, tensor, first, first + step) for first in range(0, count, step))

    def _align(self, offset: int) -> int:
        return offset + -offset % self.file.alignment

    def _head(self, source: BinaryIO, target: BinaryIO, listed: list[GgufTensor], start: int) -> None:
        source.seek(24)
        keys = bytearray(source.read(self.file.keys_end - 24))
        for key, number in self.numbers.items():
            struct.pack_into("<I", keys, self.file.places[key] - 24, number)
        target.seek(0)
        target.write(MAGIC + struct.pack("<IQQ", self.file.version, len(listed), self.file.keys) + keys)
        for tensor in listed:
            target.write(_listing(tensor, tensor.start - start))


def _listing(tensor: GgufTensor, offset: int) -> bytes:
    from gguf import GGMLQuantizationType

    name, axes = tensor.name.encode(), tensor.shape[::-1]
    return (
        struct.pack("<Q", len(name))
        + name
        + struct.pack(f"<I{len(axes)}Q", len(axes), *axes)
        + struct.pack("<IQ", GGMLQuantizationType[tensor.type].value, offset)
    )


def _share(part: float, whole: float) -> float:
    return math.sqrt(part / whole) if whole > 0 else 0.0
