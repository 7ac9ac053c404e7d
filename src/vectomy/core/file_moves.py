"""Finished files and folders get their names; the same on every system. Loads no torch.

Windows neither renames nor removes what a program has open, so every file is closed before; what
other programs (a virus scanner, an indexer) have open for a moment is waited for.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["move_into_place", "sync_file"]

# How long another program's open file is waited for, and how often it is looked at.
PATIENCE, PAUSE = 3.0, 0.05


def move_into_place(source: Path, target: Path) -> None:
    """Rename a file over `target`, or a folder to `target`, where nothing is.

    Raises:
        OSError: as `Path.replace`.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            source.replace(target)
            return
        except PermissionError:
            if os.name == "posix" or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE)


def sync_file(path: Path) -> None:
    """Force a file's content to disk. Windows does so for a file that is open for writing alone."""
    with path.open("rb" if os.name == "posix" else "r+b") as file:
        os.fsync(file.fileno())
