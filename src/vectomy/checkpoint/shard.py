"""Write one shard: changed tensors from their makers, every other byte as it was.

Untouched ranges are copied by the kernel in a second thread while this one makes the changed
tensors: both mostly wait for memory or run outside of Python's lock.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import torch
from torch import Tensor

from vectomy.checkpoint.change import Added, Change
from vectomy.checkpoint.index import Checkpoint
from vectomy.checkpoint.ranges import Range, copy_range, join_ranges, read_at, same_range, write_all
from vectomy.checkpoint.reader import STORED_DTYPES, read_stored
from vectomy.checkpoint.safetensors_header import DTYPE_BITS, Shard, TensorEntry

__all__ = ["ShardPlan", "plan_shard", "shard_holds", "write_shard"]


@dataclass(frozen=True)
class ShardPlan:
    """A shard as it is to be: its header with the length in front, which ranges are copied into it,
    and which tensors are made.
    """

    shard: Shard
    header: bytes
    copied: tuple[Range, ...]
    made: tuple[TensorEntry, ...]
    size: int

    @property
    def untouched(self) -> bool:
        return not self.made and self.size == self.shard.size and self.header[8:] == self.shard.header


def plan_shard(
    checkpoint: Checkpoint,
    shard: Shard,
    changes: Mapping[str, Change],
    added: Mapping[str, Added],
    dropped: Collection[str] = (),
) -> ShardPlan:
    """`changes` is by tensor, `added` what all shards get, `dropped` what none keeps."""
    here = {name: new for name, new in added.items() if new.shard == shard.name}
    header, entries = _layout(shard, here, dropped)
    copied = []
    for entry in entries:
        if entry.name not in changes:
            new = added.get(entry.name)
            old = checkpoint.tensors[new.copy_of if new and new.copy_of else entry.name]
            copied.append(Range(old.shard, old.start, entry.start, old.end - old.start))
    made = tuple(entry for entry in entries if entry.name in changes)
    size = max((entry.end for entry in entries), default=8 + len(header))
    return ShardPlan(shard, struct.pack("<Q", len(header)) + header, join_ranges(copied), made, size)


def _layout(
    shard: Shard, added: Mapping[str, Added], dropped: Collection[str]
) -> tuple[bytes, list[TensorEntry]]:
    """The new header and the tensors in file order: the old ones without additions and losses.

    A new tensor stands behind the last one whose elements are at least as wide as its own: there it
    is aligned, and what it moves stays so (readers ask for it, and the format allows no padding).
    """
    entries = [entry for entry in shard.tensors if entry.name not in dropped]
    if not added and len(entries) == len(shard.tensors):
        return shard.header, entries
    for name, new in added.items():
        wide = [
            index for index, entry in enumerate(entries) if DTYPE_BITS[entry.dtype] >= DTYPE_BITS[new.dtype]
        ]
        entries.insert(
            max(wide, default=-1) + 1, TensorEntry(name, shard.name, new.dtype, new.shape, 0, new.bytes)
        )
    listing = {}
    metadata = json.loads(shard.header).get("__metadata__")
    if metadata is not None:
        listing["__metadata__"] = metadata
    offset, placed = 0, []
    for entry in entries:
        placed.append(replace(entry, start=offset, end=offset + entry.end - entry.start))
        offset = placed[-1].end
        listing[entry.name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": [placed[-1].start, offset],
        }
    text = json.dumps(listing, separators=(",", ":")).encode()
    header = text + b" " * (-len(text) % 8)
    return header, [replace(e, start=8 + len(header) + e.start, end=8 + len(header) + e.end) for e in placed]


def write_shard(
    checkpoint: Checkpoint,
    plan: ShardPlan,
    path: Path,
    changes: Mapping[str, Change],
    added: Mapping[str, Added],
    advance: Callable[[int], None],
) -> int:
    """Write the new version of a shard to `path`; returns the CRC-32 of all that was not copied,
    for `shard_holds`.
    """
    stop, copied = Event(), SimpleQueue[int]()
    with path.open("wb", buffering=0) as target, ThreadPoolExecutor(1) as second:
        copier = second.submit(_copy_all, checkpoint.path, plan.copied, path, stop, copied.put)
        try:
            write_all(target, plan.header, 0)
            advance(len(plan.header))
            crc = zlib.crc32(plan.header)
            for offset, block in _blocks(checkpoint, plan, changes, added):
                write_all(target, block, offset)
                crc = zlib.crc32(block, crc)
                advance(len(block))
                _drain(copied, advance)
                if copier.done():
                    copier.result()
            while not wait([copier], timeout=0.1).done:
                _drain(copied, advance)
            copier.result()
            _drain(copied, advance)
        except BaseException:
            stop.set()
            raise
    return crc


def _copy_all(
    folder: Path, ranges: tuple[Range, ...], path: Path, stop: Event, copied: Callable[[int], None]
) -> None:
    """Runs in a thread of its own, so with an open file of its own."""
    with path.open("r+b", buffering=0) as target:
        for range_ in ranges:
            with (folder / range_.shard).open("rb", buffering=0) as source:
                for piece in range_.pieces():
                    if stop.is_set():
                        return
                    copy_range(source, target, piece)
                    copied(piece.length)


def _drain(copied: SimpleQueue[int], advance: Callable[[int], None]) -> None:
    """Report the other thread's copies from this one: listeners need not be thread-safe."""
    while not copied.empty():
        advance(copied.get())


def _blocks(
    checkpoint: Checkpoint, plan: ShardPlan, changes: Mapping[str, Change], added: Mapping[str, Added]
) -> Iterator[tuple[int, memoryview]]:
    """The bytes of the made tensors, each block with its place; a block is good until the next one
    is asked for.
    """
    here = {entry.name for entry in plan.made}
    # Values of a group's tensors that stand further behind in this shard.
    waiting: dict[str, Tensor] = {}
    # New memory for every tensor would cost more than the sums do: the system has to clear each
    # page first.
    memory = _Memory()
    for entry in plan.made:
        change = changes[entry.name]
        if change.rows:
            offset = entry.start
            for block in _row_blocks(checkpoint, change, entry, _Memory() if waiting else memory):
                yield offset, _as_bytes(block)
                offset += block.nbytes
            continue
        if entry.name not in waiting:
            made = _make(checkpoint, change, added, _Memory() if waiting else memory)
            waiting |= {name: value for name, value in made.items() if name in here}
        yield entry.start, _as_bytes(waiting.pop(entry.name))


class _Memory:
    """Memory that is used again: `take` gives a piece, `reset` takes all pieces back."""

    def __init__(self) -> None:
        self._whole = torch.empty(0, dtype=torch.uint8)
        self._at = 0

    def reset(self, needed: int) -> None:
        self._at = 0
        if len(self._whole) < needed:
            # The old memory goes before the new comes.
            self._whole = torch.empty(0, dtype=torch.uint8)
            self._whole = torch.empty(needed, dtype=torch.uint8)

    def take(self, count: int) -> Tensor:
        start, self._at = self._at, self._at + count + -count % 64
        return self._whole[start : start + count]


def _read(
    checkpoint: Checkpoint, change: Change, memory: _Memory, first: int = 0, last: int | None = None
) -> dict[str, Tensor]:
    names = [name for name in (*change.tensors, *change.reads) if name in checkpoint.tensors]
    sizes = {}
    for name in names:
        entry = checkpoint.tensors[name]
        whole = entry.end - entry.start
        sizes[name] = whole if last is None else whole // entry.shape[0] * (last - first)
    memory.reset(sum(size + -size % 64 for size in sizes.values()))
    return {
        name: read_stored(checkpoint, name, first, last, memory.take(size)) for name, size in sizes.items()
    }


def _make(
    checkpoint: Checkpoint, change: Change, added: Mapping[str, Added], memory: _Memory
) -> Mapping[str, Tensor]:
    made = change.make(_read(checkpoint, change, memory))
    for name in change.tensors:
        place = added.get(name) or checkpoint.tensors[name]
        _check_made(name, made, STORED_DTYPES[place.dtype], place.shape)
    return made


def _row_blocks(
    checkpoint: Checkpoint, change: Change, entry: TensorEntry, memory: _Memory
) -> Iterator[Tensor]:
    total = entry.shape[0]
    inputs = max(1, sum(name in checkpoint.tensors for name in (*change.tensors, *change.reads)))
    width = max(1, math.prod(entry.shape[1:]) * DTYPE_BITS[entry.dtype] // 8)
    # A function of the shapes alone: a resumed rewrite has to make the same blocks.
    step = max(1, change.block_bytes // (width * inputs))
    for first in range(0, total, step):
        last = min(first + step, total)
        made = change.make(_read(checkpoint, change, memory, first, last))
        _check_made(entry.name, made, STORED_DTYPES[entry.dtype], (last - first, *entry.shape[1:]))
        yield made[entry.name]


def _check_made(name: str, made: Mapping[str, Tensor], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if name not in made:
        raise ValueError(f"the change of '{name}' did not make it")
    if made[name].dtype != dtype or tuple(made[name].shape) != shape:
        was, new = f"{dtype} {list(shape)}", f"{made[name].dtype} {list(made[name].shape)}"
        raise ValueError(
            f"the change of '{name}' turned {was} into {new}; a checkpoint keeps dtypes and shapes"
        )


def _as_bytes(tensor: Tensor) -> memoryview:
    # reshape: a scalar cannot be viewed as bytes.
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def shard_holds(checkpoint: Checkpoint, plan: ShardPlan, path: Path, crc: int) -> bool:
    """Whether `path` is what `write_shard` wrote for this plan: the copied ranges against the
    source, the rest by its checksum (it guards against damage; who could forge it could write
    anything here).
    """
    checksum = 0
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != plan.size:
            return False
        for start, end in [(0, len(plan.header)), *((entry.start, entry.end) for entry in plan.made)]:
            for piece in Range("", start, start, end - start).pieces():
                checksum = zlib.crc32(read_at(file, piece.length, piece.start), checksum)
        if checksum != crc:
            return False
        for range_ in plan.copied:
            with (checkpoint.path / range_.shard).open("rb", buffering=0) as source:
                if not all(same_range(source, file, piece) for piece in range_.pieces()):
                    return False
    return True
