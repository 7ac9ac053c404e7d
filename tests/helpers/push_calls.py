"""Pushes to the stand-in for the Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import Hub

import vectomy
from vectomy.cli import main

REPO = "me/tiny-edited"


def push(path: Path, repo_id: str = REPO, **options: Any) -> Any:
    return vectomy.push(path, repo_id, **options)


def matter(hub: Hub, repo_id: str = REPO) -> dict[str, Any]:
    return dict(yaml.safe_load(hub.files(repo_id)["README.md"].decode().split("---\n")[1]))


# The command


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["vectomy", "push", *given])
    monkeypatch.setenv("COLUMNS", "160")
    capsys.readouterr()
    status = 0
    try:
        main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()
