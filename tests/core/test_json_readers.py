"""Whatever lies in the place of a JSON file is refused in one line by each reader."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vectomy.cli.select_command import _read_scores
from vectomy.core.config import load_config
from vectomy.core.errors import VectomyError
from vectomy.core.run_folder import read_json
from vectomy.healing.axolotl import read_axolotl
from vectomy.metrics.judges.classifier_judge import _from_file

TIER = "unit"


def read_scores(path: Path) -> object:
    return _read_scores(path, layers=4)


READERS: list[Callable[[Path], object]] = [read_json, load_config, read_scores, _from_file]
CONTENTS = {
    "nested": b"[" * 100_000,
    "a long number": b"9" * 6000,
    "no UTF-8": b"\xff\xfe{",
    "cut off": b'{"a": ',
    "empty": b"",
}


def refuse(reader: Callable[[Path], object], file: Path) -> None:
    with pytest.raises(VectomyError) as error:
        reader(file)
    assert str(error.value).isprintable()
    assert str(file) in str(error.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_that_is_no_json_is_refused(
    tmp_path: Path, reader: Callable[[Path], object], content: str
) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(CONTENTS[content])
    refuse(reader, file)


@pytest.mark.parametrize("reader", [*READERS, read_axolotl])
@pytest.mark.parametrize("what", ["a folder", "a loop", "nothing", "a pipe", "a device"])
def test_what_is_no_file_is_refused(tmp_path: Path, reader: Callable[[Path], object], what: str) -> None:
    file = tmp_path / "file.json"
    if what == "a folder":
        file.mkdir()
    elif what == "a loop":
        file.symlink_to(file)
    elif what == "a pipe":
        os.mkfifo(file)
    elif what == "a device":
        file.symlink_to("/dev/zero")
    refuse(reader, file)
