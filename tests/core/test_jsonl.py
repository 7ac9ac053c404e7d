"""JSON lines: what is written is read again, whatever stands in a text; a line ends at a newline
and nowhere else.
"""

import json
from pathlib import Path

import pytest

from vectomy.core.errors import ArtifactError
from vectomy.core.jsonl import read_jsonl, write_jsonl

TIER = "unit"

# All that str.splitlines cuts at.
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("text", [*BREAKS, "\r\n", "\ud83d", "é 😀", ""], ids=ascii)
def test_what_is_written_is_read_again(tmp_path: Path, text: str) -> None:
    rows = [{"prompt": f"a{text}b", text: [text]}, {"prompt": "next"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == len(rows)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_texts_are_written_as_they_are(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "é\u2028"}])
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == '{"text": "é\u2028"}\n'


@pytest.mark.parametrize(
    "data",
    [b'{"a": 1}\r\n\r\n{"a": 2}\r\n', b'\n{"a": 1}\n  \n{"a": 2}', b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n'],
)
def test_blank_lines_and_the_ends_of_windows_are_taken(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(data)
    assert read_jsonl(tmp_path / "rows.jsonl") == [{"a": 1}, {"a": 2}]


def test_no_rows_are_an_empty_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [])
    assert (tmp_path / "rows.jsonl").read_bytes() == b""
    assert read_jsonl(tmp_path / "rows.jsonl") == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b'{"a": 1}\n\n{"a',
            r"line 3 of .*rows.jsonl is not JSON \(.+ at column \d+\); delete it and run again",
        ),
        (b"[" * 100_000, r"line 1 of .*rows.jsonl is not JSON"),
        (b"9" * 5000, r"line 1 of .*rows.jsonl is not JSON"),
        (b'{"a": 1}\n[]', r"line 2 of .*rows.jsonl is a list, not an object; delete it"),
        (b'{"a": "\xff"}', r"rows.jsonl is not UTF-8 text \(byte 7\); delete it"),
    ],
)
def test_what_is_no_row_is_named_with_its_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(ArtifactError, match=message):
        read_jsonl(tmp_path / "rows.jsonl")


def test_a_file_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none.jsonl does not exist; run it again"):
        read_jsonl(tmp_path / "none.jsonl", remedy="run it again")


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])
    with pytest.raises(TypeError):
        write_jsonl(tmp_path / "rows.jsonl", [{"a": 2}, {"a": {3}}])
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"a": 1}
