"""The options that `vectomy` and each of its commands take: `-q`, `-v` and `--color`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from vectomy.cli.terminal import ColorChoice, Verbosity, set_color, set_verbosity

__all__ = ["COMMON_NAMES", "Color", "Quiet", "Verbose", "add_common_options"]


def _be_quiet(wanted: bool) -> None:
    if wanted:
        set_verbosity(Verbosity.QUIET)


def _be_verbose(wanted: bool) -> None:
    if wanted:
        set_verbosity(Verbosity.VERBOSE)


def _choose_color(choice: ColorChoice | None) -> None:
    # Behind the command nothing was said, and what came before it stays.
    if choice is not None:
        set_color(choice)


def _common(*flags: str, help: str, callback: Callable[..., None]) -> Any:
    return typer.Option(*flags, help=help, is_eager=True, expose_value=False, callback=callback)


Quiet = Annotated[
    bool, _common("--quiet", "-q", help="Print results, errors and questions alone.", callback=_be_quiet)
]
Verbose = Annotated[
    bool,
    _common(
        "--verbose",
        "-v",
        help="Print the messages of libraries too, and the traceback of an unforeseen error.",
        callback=_be_verbose,
    ),
]
Color = Annotated[
    ColorChoice | None,
    _common(
        "--color",
        help="Colours in tables and progress; auto: at a terminal, if NO_COLOR is not set. [default: auto]",
        callback=_choose_color,
    ),
]
COMMON_NAMES = ("quiet", "verbose", "color")
"""The names of their parameters."""


def add_common_options(app: typer.Typer) -> None:
    """Let every command that is registered take them, behind its own options."""
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_common_options(group.typer_instance)
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _with_common_options(command.callback)


def _with_common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def command(*given: Any, **values: Any) -> Any:
        return function(*given, **{name: value for name, value in values.items() if name not in COMMON_NAMES})

    own = inspect.signature(function, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=usual, annotation=kind)
        for name, kind, usual in (
            ("quiet", Quiet, False),
            ("verbose", Verbose, False),
            ("color", Color, None),
        )
    ]
    command.__dict__["__signature__"] = own.replace(parameters=[*own.parameters.values(), *more])
    return command
