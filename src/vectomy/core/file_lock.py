"""Locks between processes, by filelock: flock on POSIX systems, LockFileEx on Windows. Loads no
torch.

A lock is held until its file is closed or the process ends, however it ends.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor

__all__ = ["hold_lock", "lock_while", "wait_for_lock"]

# What a file system without locks says, and a Python without them. There is then no lock to wait
# for.
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


def hold_lock(path: Path) -> Callable[[], None] | None:
    """Take the lock of `path`; gives what releases it. None while another process holds it.

    On POSIX systems the lock is on `path` itself, which is created empty: so did earlier versions,
    and they and this one keep each other out. Windows lets nobody read a locked file: there the
    lock is on a file beside, `path` with .lock added.
    """
    posix = os.name == "posix"
    locked = path if posix else path.with_name(f"{path.name}.lock")
    file = locked.open("ab")

    def release() -> None:
        file.close()
        if not posix:
            _remove(locked)

    if _lock(file, wait=False):
        return release
    file.close()
    return None


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`, which holds nothing else and stays."""
    with path.open("ab") as file:
        _lock(file, wait=True)
        yield


@contextmanager
def lock_while(path: Path) -> Iterator[bool]:
    """Whether this process alone holds the lock of the file `path`, which is removed at the end."""
    with _open_named(path) as file:
        held = _lock(file, wait=False) and _has_name(file, path)
        try:
            yield held
        finally:
            # Under the lock, so that nobody else's file goes; Windows removes no open file.
            if held and os.name == "posix":
                path.unlink(missing_ok=True)
    if held and os.name != "posix":
        _remove(path)


def _remove(path: Path) -> None:
    """Windows refuses while another process has the file open, which then removes it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _open_named(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def _has_name(file: BinaryIO, path: Path) -> bool:
    """Whether the open file still has its name: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO, wait: bool) -> bool:
    try:
        return lock_descriptor(file.fileno(), blocking=wait)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return True
