"""The command line in this process (fixture `vectomy`) or in one of its own."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from vectomy.cli import main


class Vectomy:
    """Runs the command line in this process: status, stdout, stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *given: str, stdin: str = "") -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["vectomy", *given])
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self.monkeypatch.setenv("COLUMNS", "160")
        self.capsys.readouterr()
        status: object = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        assert isinstance(status, int)
        out, err = self.capsys.readouterr()
        return status, out, err


def process(program: str, *given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *given], capture_output=True, text=True, check=False
    )


HEAVY = "import sys; print(*sorted({'torch', 'transformers', 'safetensors', 'datasets'} & set(sys.modules)))"
