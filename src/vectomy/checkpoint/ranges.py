"""Copy and compare ranges of bytes between files, by the kernel where it can.

Files are moved to a place and read or written there (Windows has no pread): each thread needs an
open file of its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from vectomy.core.errors import CheckpointError

__all__ = ["Range", "copy_range", "join_ranges", "read_at", "read_into", "same_range", "write_all"]

# How much is copied or compared at a time: between two pieces a copy can be stopped.
PIECE = 1 << 24
# A system call moves 2 GiB at the most.
CALL = 1 << 30
# What copy_file_range says where it does not work (across file systems on old kernels, odd file
# systems, sandboxes).
NOT_HERE = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


@dataclass(frozen=True)
class Range:
    """`length` bytes at `start` of a source shard that belong at `at` of the new one."""

    shard: str
    start: int
    at: int
    length: int

    def pieces(self, size: int = PIECE) -> Iterator[Range]:
        """Consecutive ranges of at most `size` bytes."""
        for done in range(0, self.length, size):
            yield Range(self.shard, self.start + done, self.at + done, min(size, self.length - done))


def join_ranges(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same bytes in as few ranges as there can be."""
    result: list[Range] = []
    for new in ranges:
        last = result[-1] if result else None
        if last and (last.shard, last.start + last.length, last.at + last.length) == (
            new.shard,
            new.start,
            new.at,
        ):
            result[-1] = Range(last.shard, last.start, last.at, last.length + new.length)
        elif new.length:
            result.append(new)
    return tuple(result)


def copy_range(source: BinaryIO, target: BinaryIO, piece: Range) -> None:
    """From one open file to another, without the bytes passing through here if the system can do
    that. What `target` has in a buffer must be flushed.
    """
    done = _copy_in_kernel(source.fileno(), target.fileno(), piece)
    while done < piece.length:
        block = read_at(source, min(1 << 20, piece.length - done), piece.start + done)
        if not block:
            raise CheckpointError(
                f"shard {piece.shard} became shorter while it was read; is something else writing to it?"
            )
        write_all(target, block, piece.at + done)
        done += len(block)


def _copy_in_kernel(source: int, target: int, piece: Range) -> int:
    """How many bytes that copied; fewer than asked where it does not work."""
    done = 0
    while hasattr(os, "copy_file_range") and done < piece.length:
        try:
            count = os.copy_file_range(
                source, target, piece.length - done, piece.start + done, piece.at + done
            )
        except OSError as error:
            if error.errno not in NOT_HERE:
                raise
            break
        if not count:
            break
        done += count
    return done


def write_all(target: BinaryIO, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; an unbuffered file may take it in several calls."""
    view = memoryview(data)
    target.seek(offset)
    while view:
        view = view[target.write(view[:CALL]) :]


def read_into(source: BinaryIO, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` on; returns the number of bytes, fewer where the file ends."""
    source.seek(offset)
    filled = 0
    while filled < len(view):
        # readinto is a method of every binary file, though typeshed's BinaryIO lacks it.
        count: int = source.readinto(view[filled : filled + CALL])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled


def read_at(source: BinaryIO, length: int, offset: int) -> bytes:
    """`length` bytes from `offset` on, fewer where the file ends."""
    data = bytearray(length)
    return bytes(data[: read_into(source, memoryview(data), offset)])


def same_range(source: BinaryIO, other: BinaryIO, piece: Range) -> bool:
    return read_at(source, piece.length, piece.start) == read_at(other, piece.length, piece.at)
