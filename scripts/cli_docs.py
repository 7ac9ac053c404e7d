"""Write docs/cli.md, the reference of the command line, from the commands themselves.

python scripts/cli_docs.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from vectomy.cli import app
from vectomy.cli.help import ENVIRONMENT, EXIT_STATUSES, GENERAL, context_of, sections_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
ABOUT = """# Command line

Made by `python scripts/cli_docs.py` from the commands; not by hand. `vectomy COMMAND --help` shows the same
options without the section Expert; `--help-all` shows all. Terms are in the [glossary](glossary.md).
"""
# Commands that share at least this many options with an earlier command refer to it.
SHARED = 20


def page() -> str:
    """The text of docs/cli.md."""
    commands = dict(commands_of(typer.main.get_command(app)))
    links = " · ".join(f"[{name}](#{name.replace(' ', '-')})" for name in commands)
    parts = [ABOUT, f"{links}\n"]
    for name, command in commands.items():
        parts += section(name, command, {} if name == "run" else {"run": commands["run"]})
    parts.append("## Environment variables\n")
    parts.append(table(("variable", "meaning"), [(f"`{key}`", text) for key, text in ENVIRONMENT.items()]))
    parts.append("## Exit statuses\n")
    parts.append(table(("status", "meaning"), [(str(key), text) for key, text in EXIT_STATUSES.items()]))
    return "\n".join(parts)


def commands_of(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(`edit new`, its command) for each command, in alphabetical order."""
    for name, item in sorted(group.commands.items()):
        if hasattr(item, "commands"):
            yield from commands_of(item, (*path, name))
        else:
            yield " ".join((*path, name)), item


def section(name: str, command: Any, earlier: dict[str, Any]) -> list[str]:
    """The part of the page about one command.

    Args:
        earlier: commands that it may refer to for options that are the same.
    """
    parts = [f"## {name}\n", f"    vectomy {name} {usage(command)}\n", f"{' '.join(command.help.split())}\n"]
    records = records_of(command)
    for other, item in earlier.items():
        known = records_of(item)
        same = {row for title, rows in records.items() for row in rows if row in known.get(title, [])}
        if len(same) < SHARED:
            continue
        lacking = [row[0].split()[0] for rows in known.values() for row in rows if row not in same]
        without = f", without {', '.join(f'`{flag}`' for flag in lacking)}" if lacking else ""
        parts.append(f"Takes the arguments and options of [{other}](#{other}){without}.\n")
        records = {title: [row for row in rows if row not in same] for title, rows in records.items()}
    for title, rows in records.items():
        if rows:
            parts.append(table((title, "meaning"), [(f"`{flags}`", text) for flags, text in rows]))
    if command.epilog:
        parts.append(f"{command.epilog}\n")
    return parts


def records_of(command: Any) -> dict[str, list[tuple[str, str]]]:
    """By section, (`--flag VALUE`, help text), without --help and --help-all."""
    records = sections_of(command, context_of(command))
    return {title: rows for title, rows in records.items() if title != GENERAL}


def usage(command: Any) -> str:
    """Arguments and required options: `MODEL --out FILE`."""
    arguments = [item.metavar for item in command.params if item.param_type_name == "argument"]
    required = [
        f"{item.opts[0]} {item.metavar}"
        for item in command.params
        if item.param_type_name == "option" and item.required
    ]
    return " ".join([*arguments, *required, "[OPTIONS]"])


def table(heads: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {heads[0]} | {heads[1]} |", "|---|---|"]
    lines += [
        f"| {first.replace('|', chr(92) + '|')} | {' '.join(second.split())} |" for first, second in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
