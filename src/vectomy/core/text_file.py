"""Text files that others handed in: read as a regular file, up to a bound. Loads no torch."""

from __future__ import annotations

import errno
from pathlib import Path

__all__ = ["LARGEST_TEXT", "check_regular", "read_text"]

LARGEST_TEXT = 100_000_000
"""Bytes of a file that is parsed as a whole: configurations, indices, records, templates."""


def check_regular(path: Path, limit: int | None = None) -> None:
    """Raises OSError for a pipe or a device, which may never end, and for a file of more than
    `limit` bytes.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    if limit is not None and path.stat().st_size > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes")


def read_text(path: Path, limit: int = LARGEST_TEXT, errors: str = "strict") -> str:
    """The content of a file in UTF-8.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read, is a pipe or a device, or has more than `limit` bytes.
        UnicodeDecodeError: it is not UTF-8, and `errors` is "strict".
    """
    check_regular(path, limit)
    return path.read_text(encoding="utf-8", errors=errors)
