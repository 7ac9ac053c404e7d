"""The folder or file of a command: its own name, a new number where that holds finished results of
other settings, or what a person at the terminal says.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.prompt import Prompt

from vectomy.cli.terminal import log_line, open_console
from vectomy.core.errors import FinishedRunError
from vectomy.core.ranks import current_ranks, is_launched

__all__ = ["ask_about_folder", "at_terminal", "work_in_folder", "write_file"]

Result = TypeVar("Result")
Ask = Callable[[FinishedRunError, Path], str]
"""Given what differs and the next free name: `new`, `replace` or `stop`."""


def work_in_folder(
    work: Callable[[Path, bool], Result],
    out: Path | None,
    usual: Path,
    *,
    overwrite: bool = False,
    ask: Ask | None = None,
    is_file: bool = False,
) -> tuple[Result, Path]:
    """Run a command in `out`, or in the folder `usual` or the next of NAME-2, NAME-3, ... that
    holds no finished results of other settings.

    Args:
        work: the command, given its folder and whether to replace finished results there.
        out: the folder that was typed, which is never exchanged without asking.
        ask: asks a person at the terminal; absent: nobody is there.
        is_file: `out` is a file, whose ending stays behind the number.

    Returns:
        What `work` returns, and the folder.

    Raises:
        FinishedRunError: `out` holds finished results of other settings; nothing was changed.
    """
    wanted = out or usual
    folder = wanted
    for number in itertools.count(2):
        name = f"{wanted.stem}-{number}{wanted.suffix}" if is_file else f"{wanted.name}-{number}"
        following = wanted.with_name(name)
        try:
            return work(folder, overwrite), folder
        except FinishedRunError as error:
            answer = "new" if out is None else "stop" if ask is None else ask(error, following)
            if answer == "stop":
                raise
            if answer == "replace":
                return work(folder, True), folder
            if current_ranks().is_first:
                log_line(
                    f"{folder} holds finished results of other settings ({error.differences}); these go "
                    f"into {following}"
                )
            folder = following
    raise AssertionError


def write_file(write: Callable[[Path, bool], None], out: Path, overwrite: bool) -> Path:
    """Write a finished result to the file `out`, or where a person at the terminal says.

    Args:
        write: writes the file; given its path, and whether to replace other content there.

    Returns:
        The file that was written.

    Raises:
        FinishedRunError: `out` holds other content; nothing was changed.
    """
    ask = ask_about_folder if at_terminal() else None
    return work_in_folder(write, out, out, overwrite=overwrite, ask=ask, is_file=True)[1]


def at_terminal() -> bool:
    """Whether a person can be asked; the processes of a launcher ask nobody."""
    return not is_launched() and sys.stdin.isatty() and sys.stderr.isatty()


def ask_about_folder(error: FinishedRunError, following: Path) -> str:
    """What to do about finished results of other settings: `new`, `replace` or `stop`."""
    console = open_console(stderr=True)
    console.print(
        f"{error.folder} holds finished results of other settings: {error.differences}",
        highlight=False,
        soft_wrap=True,
    )
    return Prompt.ask(
        f"`new` name {following}, `replace` them, or `stop`?",
        console=console,
        choices=["new", "replace", "stop"],
        default="new",
    )
