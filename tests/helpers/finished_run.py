"""Runs of the tiny chat model, each made once a process; not to be written to."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tiny_chat

from vectomy.workflows.run import run


@cache
def finished_run(
    model: Path | None = None, prompts: Callable[[], dict[str, str]] = tiny_chat.sources, **options: Any
) -> Path:
    """The folder of a finished run. `options` are a run's, sequences as tuples."""
    out = tiny_chat.scratch() / "run"
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    # Of four layers, only the last has the direction whose removal removes the refusals.
    settings = {"device": "cpu", "answer_tokens": 8, "recipe": "arditi", "layer_fraction": 1.0, **plain}
    run(str(model or tiny_chat.folder()), out, **prompts(), **settings)
    return out


def summary_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def scores_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))
