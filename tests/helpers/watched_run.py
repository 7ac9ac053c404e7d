"""Runs of the tiny chat model, and which stages of them are computed."""

import shutil
from pathlib import Path
from typing import Any

import tiny_chat
from finished_run import finished_run

from vectomy.workflows.run import run

SHORT = {
    "device": "cpu",
    "answer_tokens": 8,
    "behaviour_tokens": ("I",),
    "recipe": "arditi",
    "layer_fraction": 1.0,
}


def go(out: Path, model: Path | None = None, **options: Any) -> dict[str, Any]:
    return run(str(model or tiny_chat.folder()), out, **{**tiny_chat.sources(), **SHORT, **options})


def finished_with(**options: Any) -> Path:
    return finished_run(**{**SHORT, **options})


def finished_copy(path: Path) -> Path:
    """A finished run to continue in."""
    return Path(shutil.copytree(finished_with(), path / "run"))
