"""How fast a disk is: a file is written to it, read and hashed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["measure_disk"]

# Bytes of the file, and how often it is made.
SIZE, CALLS = 64 << 20, 3


def measure_disk(folder: Path, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Seconds a byte of reading, of writing to the disk itself, and of sha256: the quickest of
    some, since the first file takes memory that the system still has to find. A folder that takes
    no files is measured by the one for temporary files.
    """
    data = os.urandom(1 << 20) * (SIZE >> 20)
    where = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    calls = [_write_and_read(data, where, clock) for _ in range(CALLS)]
    read, written, hashed = (min(seconds) / len(data) for seconds in zip(*calls, strict=True))
    return read, written, hashed


def _write_and_read(data: bytes, folder: Path, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Seconds of reading, writing and hashing."""
    with tempfile.TemporaryFile(dir=folder) as file:
        began = clock()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        written = clock() - began
        file.seek(0)
        began = clock()
        file.read()
        read = clock() - began
    began = clock()
    hashlib.sha256(data).digest()
    return read, written, clock() - began
