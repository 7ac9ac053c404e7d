"""What a kind of case is, and what no case may bring about."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

__all__ = ["Kind", "NotAllowedError", "allow", "run_command"]


class NotAllowedError(Exception):
    """What no input may bring about."""


@dataclass(frozen=True)
class Kind:
    """Cases of one sort.

    Attributes:
        name: of the kind.
        build: makes the undamaged folders under a path, once.
        damage: damages a copy of one of them; returns what the oracle of `steps` needs.
        steps: reads the damaged folder and writes to another; yields the name of each step before
            it, and raises NotAllowedError for a wrong result.
    """

    name: str
    build: Callable[[Path], None]
    damage: Callable[[random.Random, Path], Any]
    steps: Callable[[Path, Path, Any], Iterator[str]]


def allow(condition: bool, wrong: str) -> None:
    if not condition:
        raise NotAllowedError(wrong)


# The parser of all commands, which does not change, takes longer to make than most commands.
typer.main.get_command = functools.cache(typer.main.get_command)


def run_command(*words: str) -> tuple[int, str]:
    """The command line in this process: its status, and its stderr, which has to be a sentence."""
    from vectomy.cli import main

    given, out, err, status = sys.argv, io.StringIO(), io.StringIO(), 0
    sys.argv, os.environ["COLUMNS"] = ["vectomy", *words], "160"
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.argv = given
    text = err.getvalue()
    allow("unforeseen" not in text, f"{words[0]}: {text.strip()[:200]}")
    allow("Traceback" not in text, f"{words[0]}: a traceback")
    allow(status in (0, 1, 2, 3), f"{words[0]}: status {status}")
    allow(
        status in (0, 3) or "vectomy" in text or bool(out.getvalue()), f"{words[0]}: {status} without a word"
    )
    return status, text
