"""The terminal that commands print to: how much is said on stderr, and in which colours."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "ColorChoice",
    "Verbosity",
    "log_line",
    "open_console",
    "reset_terminal",
    "set_color",
    "set_verbosity",
    "verbosity",
]

ColorChoice = Literal["auto", "always", "never"]


class Verbosity(IntEnum):
    """What stderr says besides errors and questions."""

    QUIET = 0
    """Nothing."""
    USUAL = 1
    """Progress, and what a person should know."""
    VERBOSE = 2
    """The messages of libraries, and the traceback of an unforeseen error, too."""


@dataclass
class _Settings:
    verbosity: Verbosity = Verbosity.USUAL
    color: ColorChoice = "auto"


# Of this process, which is one command.
_SETTINGS = _Settings()


def reset_terminal() -> None:
    """The settings of a command without `--quiet`, `--verbose` and `--color`."""
    _SETTINGS.verbosity, _SETTINGS.color = Verbosity.USUAL, "auto"


def verbosity() -> Verbosity:
    return _SETTINGS.verbosity


def set_verbosity(level: Verbosity) -> None:
    _SETTINGS.verbosity = level
    if level is Verbosity.VERBOSE:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


def set_color(choice: ColorChoice) -> None:
    _SETTINGS.color = choice


def open_console(stderr: bool = False) -> Console:
    """A console that shows text as it is: brackets and colons in a name are no markup or emoji.

    Colours: with `auto` those of the terminal, none in a file or where NO_COLOR is set.
    """
    from rich.console import Console

    if _SETTINGS.color == "auto":
        return Console(stderr=stderr, markup=False, emoji=False)
    if _SETTINGS.color == "never":
        return Console(stderr=stderr, markup=False, emoji=False, color_system=None, no_color=True)
    system: Literal["auto", "standard"] = "auto" if Console(stderr=stderr).is_terminal else "standard"
    return Console(stderr=stderr, markup=False, emoji=False, color_system=system, no_color=False)


def log_line(line: str) -> None:
    """Say a line on stderr, but for `--quiet`."""
    if _SETTINGS.verbosity is not Verbosity.QUIET:
        open_console(stderr=True).print(line, highlight=False, soft_wrap=True)
