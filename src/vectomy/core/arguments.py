"""Checks of what a caller gives: an error names the argument, its value and what to give instead.
Loads no torch.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterable
from typing import TypeVar

from vectomy.core.errors import UsageError
from vectomy.core.suggestions import suggest

__all__ = ["list_of", "name_of", "require", "require_name", "require_path"]

Value = TypeVar("Value")
Item = TypeVar("Item", int, str)


def name_of(value: object) -> str:
    """The type of a value with its article, and the value itself where that is short."""
    kind = type(value).__name__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    shown = reprlib.repr(value) if isinstance(value, str | int | float | tuple | list | type(None)) else ""
    return f"{article} {kind}" + (f" ({shown})" if shown else "")


def require(value: object, kind: type[Value] | tuple[type[Value], ...], what: str, remedy: str) -> Value:
    """The value, if it is of the kind.

    Args:
        what: the argument, such as "the edit".
        remedy: what to give, such as "give an Edit".

    Raises:
        UsageError: it is of another kind.
    """
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    raise UsageError(f"{what} is {name_of(value)}; {remedy}")


def require_name(value: object, choices: Collection[str], what: str) -> str:
    """The value, if it is one of the choices.

    Raises:
        UsageError: it is not; with the nearest of the choices.
    """
    if isinstance(value, str) and value in choices:
        return value
    near = suggest(value, choices) if isinstance(value, str) else ""
    raise UsageError(f"there is no {what} {value!r:.80}{near}; choose from {', '.join(choices)}")


def require_path(value: object, what: str) -> None:
    """Raises UsageError for what is no path."""
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise UsageError(f"{what} is {name_of(value)}; give a path as text or pathlib.Path")


def list_of(kind: type[Item], value: object, what: str, remedy: str) -> list[Item]:
    """The values of an argument that takes one or several.

    Raises:
        UsageError: one of them is of another kind.
    """
    given = [value] if isinstance(value, kind) else value
    if not isinstance(given, Iterable):
        raise UsageError(f"{what} is {name_of(value)}; {remedy}")
    return [require(item, kind, what, remedy) for item in given]
