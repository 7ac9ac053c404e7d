"""Help of a command in sections: short with `--help`, complete with `--help-all`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from vectomy.cli.terminal import Verbosity, verbosity
from vectomy.core.absent_path import check_edit_exists, check_model_exists, check_run_exists
from vectomy.core.suggestions import near_name, suggest

__all__ = [
    "ENVIRONMENT",
    "EXIT_STATUSES",
    "GENERAL",
    "JOB",
    "MAKE",
    "MEASURE",
    "PUBLISH",
    "SECTIONS",
    "STAGES",
    "SectionedCommand",
    "SectionedGroup",
    "context_of",
    "sections_of",
    "usage_of",
]

EXPERT = "Expert"
# By the word that the usage has for the value.
CHECKS = {
    "MODEL": check_model_exists,
    "CHECKPOINT": check_model_exists,
    "EDIT": check_edit_exists,
    "RUN": check_run_exists,
    "A": check_model_exists,
    "B": check_model_exists,
}
# Commands with one of these arguments compute with torch.
COMPUTING = ("MODEL", "CHECKPOINT", "EDIT", "A", "SUBJECT...", "CARD|EDIT|FOLDER|OWNER/NAME")
LOADING = "loading torch ..."
# Commands that are named for an option that they have and another one lacks.
NAMED = 4
ENVIRONMENT = {
    "HF_HOME": "Folder of the Hub's cache; huggingface_hub has more variables.",
    "HF_HUB_OFFLINE": "1: nothing is fetched from the Hub; its cache is used.",
    "HF_TOKEN": "Token of the Hub, if not that of `hf auth login`.",
    "NO_COLOR": "1: no colours; --color overrides it.",
    "VECTOMY_CACHE": "Folder of the demo model and of probed architectures. "
    "[default: $XDG_CACHE_HOME/vectomy, else ~/.cache/vectomy]",
    "VECTOMY_CONVERTER": "Folder with llama.cpp's convert_hf_to_gguf.py, for `--as gguf`.",
    "VECTOMY_DEBUG": "1: an unforeseen error shows its traceback, as with -v.",
    "VECTOMY_ENGINE_KEY": "API key of the server of `--engine openai:URL`, and of subjects on a server.",
    "VECTOMY_JUDGE_KEY": "API key of the endpoint of `--judge openai:URL`.",
}
EXIT_STATUSES = {
    0: "Done.",
    1: "Failed, with one sentence on stderr; or the answer of `verify` or `reproduce` is no.",
    2: "Wrong usage: an unknown option, a missing argument, a wrong value.",
    3: "`verify` cannot tell.",
    4: "A gate of `evaluate` is missed.",
    5: "None is missed, and of one the prompts are too few to tell.",
    130: "Interrupted; the same command resumes.",
}
# Options without a section of their own come last, under this name.
GENERAL = "Options"
ORDER = (
    *("Prompts", "Trait", "Search", "Edit", "Training", "Measures"),
    *("Hub", "Output", "Machine", EXPERT, GENERAL),
)
# The sections of `vectomy --help`, in order; a command names its own as `rich_help_panel`.
JOB, MAKE, MEASURE = "The whole job", "Make and write an Edit", "Measure and repair"
PUBLISH, STAGES = "Publish and check", "Single stages of a run"
SECTIONS = (JOB, MAKE, MEASURE, PUBLISH, STAGES)


class SectionedGroup(TyperGroup):
    """The list of commands in sections, each with the first sentence of its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As in typer; an unknown option is named with what it comes near to."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _explain_unknown_option(error, self, ctx)
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As in typer; an unknown command is named with the one that it comes near to."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            near = suggest(args[0], self.commands) if args else ""
            if near and hasattr(error, "message"):
                error.message = f"{str(error.message).rstrip('.')}{near}"
            raise

    def list_rows(self) -> Iterator[tuple[str, str, str]]:
        """(section, name, first sentence of the help) of each command."""
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            section = panel if panel in SECTIONS else "Commands"
            first_sentence = " ".join((command.help or "").split()).partition(". ")[0]
            yield section, name, f"{first_sentence.removesuffix('.')}."

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for section, name, sentence in self.list_rows():
            rows.setdefault(section, []).append((name, sentence))
        for section in sorted(rows, key=lambda title: (*SECTIONS, "Commands").index(title)):
            with formatter.section(section):
                formatter.write_dl(rows[section])
        if ctx.parent is None:
            with formatter.section("Environment variables"):
                formatter.write_dl(list(ENVIRONMENT.items()))


class SectionedCommand(TyperCommand):
    """A command whose help lists its options in the sections that `rich_help_panel` names; it has
    `--help-all`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(_make_help_all(any(_section(item) == EXPERT for item in self.params)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As in typer; a wrong value is named in our words, with the choice that is near to it."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _explain_unknown_option(error, self, ctx)
            if hasattr(error, "message"):
                error.message = _reword(str(error.message))
            raise

    def invoke(self, ctx: Any) -> Any:
        """As in typer; what is named and not there is said before the command loads anything."""
        for item in self.params:
            check = CHECKS.get(str(item.metavar))
            value = ctx.params.get(item.name)
            if check is not None and isinstance(value, str | Path):
                check(str(value))
        if any(item.metavar in COMPUTING for item in self.params if item.param_type_name == "argument"):
            _load_torch()
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return usage_of(self).split(" ")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections = sections_of(self, ctx)
        hidden = [] if ctx.meta.get(EXPERT) else sections.pop(EXPERT, [])
        for name in sections:
            with formatter.section(name):
                formatter.write_dl(sections[name])
        if hidden:
            formatter.write_paragraph()
            are = "option is" if len(hidden) == 1 else "options are"
            formatter.write_text(f"{len(hidden)} expert {are} not shown: --help-all.")


def _load_torch() -> None:
    """At a terminal, load what takes seconds now, and say so meanwhile."""
    if "torch" in sys.modules or not sys.stderr.isatty() or verbosity() is Verbosity.QUIET:
        return
    sys.stderr.write(LOADING)
    sys.stderr.flush()
    import_module("vectomy.workflows.named_model")
    sys.stderr.write(f"\r{' ' * len(LOADING)}\r")
    sys.stderr.flush()


def _reword(message: str) -> str:
    message = message.replace("Value error, ", "")
    match = re.search(r"'([^']*)' is not one of ('.*')", message)
    near = suggest(match[1], re.findall(r"'([^']+)'", match[2])) if match else ""
    return f"{message.rstrip('.')}{near}" if near else message


def _explain_unknown_option(error: Exception, command: Any, ctx: Any) -> None:
    """Exchange typer's guesses, which are far from the name, for one that is near or for the
    commands that have the option.
    """
    unknown = getattr(error, "option_name", None)
    if not isinstance(unknown, str) or not hasattr(error, "possibilities"):
        return
    error.possibilities = []
    others = [name for name, item in _commands_of(ctx) if unknown in _flags_of(item, ctx)]
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        hint = f" (it is an option of {', '.join(others[:NAMED])}{more})"
    else:
        near = near_name(unknown.lstrip("-"), [name.lstrip("-") for name in _flags_of(command, ctx)])
        hint = f" (did you mean --{near}?)" if near else ""
    error.message = f"{getattr(error, 'message', error)}{hint}"  # type: ignore[attr-defined]


def _flags_of(command: Any, ctx: Any) -> list[str]:
    """The long names of a command's options."""
    flags = [flag for item in command.get_params(ctx) for flag in (*item.opts, *item.secondary_opts)]
    return [flag for flag in flags if flag.startswith("--")]


def _commands_of(ctx: Any) -> list[tuple[str, Any]]:
    return list(ctx.find_root().command.commands.items())


def sections_of(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """By section, in the order of the help, (flags and value, help text) of each option."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is not None and param.param_type_name == "argument":
            # Its name says what it is; `<str>` says nothing.
            record = (param.metavar, record[1])
        if record is not None:
            sections.setdefault(_section(param), []).append(record)
    return {name: sections[name] for name in sorted(sections, key=_rank)}


def usage_of(command: Any) -> str:
    """Arguments, required options, and the word for the others: `MODEL --out FILE [OPTIONS]`."""
    arguments = [item.metavar for item in command.params if item.param_type_name == "argument"]
    required = [
        f"{item.opts[0]} {item.metavar}"
        for item in command.params
        if item.param_type_name == "option" and item.required
    ]
    return " ".join([*arguments, *required, "[OPTIONS]"])


def context_of(command: Any) -> Any:
    """A context of a command that is not being run."""
    return command.context_class(command, info_name=command.name, help_option_names=["-h", "--help"])


def _section(param: Any) -> str:
    if param.param_type_name == "argument":
        return "Arguments"
    return getattr(param, "rich_help_panel", None) or GENERAL


def _rank(section: str) -> int:
    return ORDER.index(section) if section in ORDER else -1


def _print_all(context: Any, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        context.meta[EXPERT] = True
        typer.echo(context.get_help(), color=context.color)
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all",
        is_eager=True,
        expose_value=False,
        callback=_print_all,
        help="Show this message with all options.",
        show_default=False,
    ),
]


def _make_help_all(shown: bool) -> Any:
    """The option, made by typer.

    Args:
        shown: in the help: the command has options that only it shows.
    """

    def ask(help_all: HelpAll = False) -> None:
        pass

    app = typer.Typer(add_completion=False)
    app.command()(ask)
    option: Any = typer.main.get_command(app).params[0]
    option.hidden = not shown
    return option
