"""Help of a command in sections: short with `--help`, complete with `--help-all`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

__all__ = ["HelpAll", "SectionedCommand"]

EXPERT = "Expert"
# Options without a section of their own come first, under this name.
GENERAL = "Options"
ORDER = (
    *(GENERAL, "Edit", "Prompts", "Trait", "Search", "Training", "Measures"),
    *("Hub", "Output", "Machine", EXPERT),
)


class SectionedCommand(TyperCommand):
    """A command whose help lists its options in the sections that `rich_help_panel` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(_section(param), []).append(record)
        hidden = [] if ctx.meta.get(EXPERT) else sections.pop(EXPERT, [])
        for name in sorted(sections, key=_rank):
            with formatter.section(name):
                formatter.write_dl(sections[name])
        if hidden:
            formatter.write_paragraph()
            formatter.write_text(f"{len(hidden)} expert options are not shown: --help-all.")


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
