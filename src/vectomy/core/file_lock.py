"""A lock on an open file or a folder: flock on POSIX systems, a locked byte on Windows. Loads no
torch.

The lock is held until the file is closed or the process ends, however it ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:
    msvcrt = None  # type: ignore[assignment]

__all__ = ["lock_folder", "try_lock", "wait_for_lock"]

# Windows keeps other processes from reading locked bytes; this one lies behind the end of any file
# that is locked here.
BYTE = 2**30
SECONDS = 0.1


def try_lock(file: IO[Any]) -> bool:
    """Whether this process now holds the lock. True on a system without locks."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    elif msvcrt is not None:
        return _lock_byte(file)
    return True


@contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """Whether this process holds the lock on a folder; it stays locked while it is renamed.

    True on a system or a file system without locks on folders (Windows, NFS).
    """
    if fcntl is None:
        yield True
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Renamed by its last holder between the two calls, it is no longer the folder of this name.
        alone = folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())
    except BlockingIOError:
        alone = False
    except OSError:
        alone = True
    try:
        yield alone
    finally:
        os.close(handle)


def wait_for_lock(file: IO[Any]) -> None:
    """Return when this process holds the lock."""
    while not try_lock(file):
        time.sleep(SECONDS)


def _lock_byte(file: IO[Any]) -> bool:
    file.flush()
    handle = file.fileno()
    place = os.lseek(handle, 0, os.SEEK_CUR)
    # mypy knows these names on Windows alone.
    windows: Any = msvcrt
    try:
        os.lseek(handle, BYTE, os.SEEK_SET)
        windows.locking(handle, windows.LK_NBLCK, 1)
    except OSError:
        return False
    finally:
        os.lseek(handle, place, os.SEEK_SET)
    return True
