"""The command line. The module of a command is imported when it is used (command_table.py), and
heavy ones when it runs: help is quick.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from vectomy.cli.command_table import COMMANDS, LoadedCommands
from vectomy.cli.common_options import Color, Quiet, Verbose
from vectomy.cli.help import SectionedGroup
from vectomy.cli.terminal import Verbosity, reset_terminal, verbosity
from vectomy.core.errors import UsageError, VectomyError
from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.packages import describe_missing
from vectomy.core.quoted_error import quote_error
from vectomy.core.ranks import is_launched, may_say
from vectomy.core.write_errors import describe_os_error

__all__ = ["app", "main"]

INTERRUPTED = 130
# Commands whose work several processes of a launcher share.
SHARED = ("run", "baseline", "collect", "directions", "evaluate")
# Signs of our own output, for terminals that are not UTF-8.
PLAIN_SIGNS = {
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "·": ".",
    "→": "->",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
}

ABOUT = (
    "Find the direction behind a behaviour of a language model, edit the weights, and measure the result. "
    "`vectomy COMMAND --help` describes a command."
)


class LaunchableGroup(SectionedGroup):
    """The commands; under a launcher, those that several processes share."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LoadedCommands()

    def list_rows(self) -> Iterator[tuple[str, str, str]]:
        for entry in COMMANDS:
            yield entry.section, entry.name, entry.sentence

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if is_launched() and name not in SHARED:
            raise UsageError(
                f"`vectomy {name}` works in one process; start it without accelerate launch or torchrun. "
                f"Several processes share the work of: {', '.join(SHARED)}"
            )
        return name, command, rest


app = typer.Typer(
    cls=LaunchableGroup,
    no_args_is_help=True,
    # SectionedGroup suggests nearer ones.
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=ABOUT,
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        import importlib.metadata

        typer.echo(f"vectomy {importlib.metadata.version('vectomy')}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", help="Print the version.", is_eager=True, callback=_print_version),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    color: Color = None,
) -> None:
    """The options of `vectomy` itself."""


def main() -> None:
    """Exit status: 0 done, 1 failed with one sentence on stderr, 2 bad usage, 130 interrupted."""
    _allow_any_text()
    reset_terminal()
    if not sys.stderr.isatty():
        # Of libraries; ours are lines there. What the environment says stays.
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        app(prog_name="vectomy")
    except VectomyError as error:
        _stop(str(error), error.exit_status)
    except (KeyboardInterrupt, SystemExit) as stop:
        # typer turns Ctrl-C into this status without a message.
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        _stop("interrupted; finished work is kept, and the same command resumes from there", INTERRUPTED)
    except Exception as error:
        if has_lost_reader(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        if os.environ.get("VECTOMY_DEBUG") or verbosity() is Verbosity.VERBOSE:
            raise
        _stop(_describe(error), 1)


def has_lost_reader(error: Exception, windows: bool = os.name == "nt") -> bool:
    """Whether the reader of our output (a pager, head) has gone; Windows calls that an invalid
    argument of no file.
    """
    if isinstance(error, BrokenPipeError):
        return True
    return windows and isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None


def _describe(error: Exception) -> str:
    """One sentence for an error that no room below has named."""
    if is_out_of_memory(error):
        return (
            "out of memory; lower --batch-tokens, or choose --dtype bfloat16, or a --device with more memory"
        )
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("vectomy"):
        return describe_missing("this command", error.name.partition(".")[0]) or str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return describe_os_error(error)
    return f"{_unforeseen(error)} (-v shows the traceback)"


def _unforeseen(error: Exception) -> str:
    return f"unforeseen {type(error).__name__}: {quote_error(error) if str(error) else 'no message'}"


def _allow_any_text() -> None:
    """Let a terminal or pipe show what its encoding does not hold, or no encoding does, by
    replacements instead of failing.
    """
    codecs.register_error("vectomy", _replace_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (
            stream.errors == "strict" or not stream.encoding.lower().startswith("utf")
        ):
            stream.reconfigure(errors="vectomy")


def _replace_characters(error: UnicodeError) -> tuple[str, int]:
    """ASCII for the signs of our tables and sentences, `?` for all other characters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN_SIGNS.get(sign, "?") for sign in text), error.end


def _stop(message: str, status: int) -> None:
    if may_say(message):
        print(f"vectomy: {message}", file=sys.stderr)  # noqa: T201 (this is the command line)
    raise SystemExit(status)
