"""What no room has named becomes one sentence in `main`, and any terminal can show our text."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vectomy import cli
from vectomy.core.jsonl import json_line

TIER = "unit"


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data/model"), ["/data/model", "no right"]),
        (FileNotFoundError(errno.ENOENT, "No such file", "/data/model"), ["/data/model", "does not exist"]),
        (OSError(errno.EMFILE, "Too many open files"), ["ulimit -n"]),
        (ModuleNotFoundError("No module named 'peft'", name="peft.tuners"), ["peft", "'vectomy[lora]'"]),
        (ModuleNotFoundError("No module named 'einops'", name="einops"), ["pip install einops"]),
        (MemoryError(), ["--batch-tokens"]),
    ],
)
def test_errors_of_the_machine_are_named(
    error: Exception, parts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.delenv("VECTOMY_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    message = capsys.readouterr().err
    assert stop.value.code == 1
    assert "unforeseen" not in message
    assert len(message.splitlines()) == 1
    assert all(part in message for part in parts), message


def test_a_terminal_that_is_not_utf8_shows_replacements() -> None:
    code = (
        "from vectomy import cli; cli._allow_any_text(); print('95 % 0.1–0.4 … 中 →');"
        "import sys; print('é', file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert result.stdout == b"95 % 0.1-0.4 ... ? ->\n"
    assert result.stderr == b"?\n"


def test_rows_keep_their_text_in_a_pipe_that_is_not_utf8() -> None:
    row = {"completion": "naïve – 中 😀"}
    text = json_line(row, "ascii")
    assert text.isascii()
    assert json.loads(text) == row
    assert json_line(row, "utf-8") == '{"completion": "naïve – 中 😀"}\n'


def test_utf8_output_keeps_its_text_and_replaces_halves_of_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("wb") as file:
        stream = io.TextIOWrapper(file, encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", stream)
        cli._allow_any_text()
        stream.write("naïve – 中 😀 \ud83d\n")
        stream.flush()
        stream.detach()
    assert (tmp_path / "out").read_text(encoding="utf-8") == "naïve – 中 😀 ?\n"
