"""What lies in the place of a text file is read as a file, or refused; nothing is waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vectomy.core.text_file import read_text

TIER = "unit"


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes("é\u2028東\n".encode())
    (tmp_path / "link").symlink_to(file)
    assert read_text(file) == read_text(tmp_path / "link") == "é\u2028東\n"
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")


def test_what_may_never_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(OSError, match="not a regular file"):
            read_text(tmp_path / name)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(OSError, match="more than 100000000 bytes"):
        read_text(file)
