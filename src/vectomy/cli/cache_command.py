"""`vectomy cache ls` and `vectomy cache clean`: what the cache holds, and its removal."""

from __future__ import annotations

import json

import typer
from rich.table import Table

from vectomy.cli.help import PUBLISH, SectionedCommand, SectionedGroup
from vectomy.cli.output_folder import at_terminal
from vectomy.cli.terminal import log_line, open_console
from vectomy.cli.vocabulary import AsJson, Yes
from vectomy.core.byte_count import write_bytes
from vectomy.core.errors import UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    cache = typer.Typer(
        cls=SectionedGroup,
        no_args_is_help=True,
        suggest_commands=False,
        help="Show or remove what vectomy keeps in its cache: `vectomy cache ls`, `vectomy cache clean`.",
    )
    cache.command("ls", cls=SectionedCommand)(_ls)
    cache.command("clean", cls=SectionedCommand)(_clean)
    app.add_typer(cache, name="cache", rich_help_panel=PUBLISH)


def _ls(as_json: AsJson = False) -> None:
    """List what vectomy keeps in its cache ($VECTOMY_CACHE). Models of the Hub are in its own
    cache: `hf cache ls`.
    """
    from vectomy.core.cache_entries import list_cache
    from vectomy.core.run_folder import cache_folder

    entries = list_cache()
    if as_json:
        found = {"folder": str(cache_folder()), "entries": [entry.to_json() for entry in entries]}
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(title=str(cache_folder()), title_justify="left")
    noun = "folder" if len(entries) == 1 else "folders"
    for column in ("folder", "what", "size", "date"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for entry in entries:
        date = entry.date[:16].replace("T", " ")
        table.add_row(entry.path.name, entry.what, write_bytes(entry.bytes), date)
    table.add_section()
    table.add_row(f"{len(entries)} {noun}", "", write_bytes(sum(entry.bytes for entry in entries)), "")
    open_console().print(table)


def _clean(yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove what vectomy keeps in its cache; commands make it again when they need it. Asks first.
    Other files in that folder and the cache of the Hub stay as they are.
    """
    from vectomy.core.cache_entries import list_cache, remove_entry

    entries = list_cache()
    for entry in entries:
        log_line(f"{entry.path}: {entry.what}, {write_bytes(entry.bytes)}")
    if entries and not yes:
        if not at_terminal():
            raise UsageError("nothing was removed; `vectomy cache clean --yes` removes without asking")
        size = write_bytes(sum(entry.bytes for entry in entries))
        if not typer.confirm(f"Remove {len(entries)} folders, {size}?", err=True):
            raise typer.Exit(1)
    removed = [entry for entry in entries if remove_entry(entry)]
    in_use = [entry for entry in entries if entry not in removed]
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "removed": [entry.to_json() for entry in removed],
                    "in_use": [entry.to_json() for entry in in_use],
                },
                indent=2,
            )
        )
        return
    for entry in in_use:
        log_line(f"{entry.path} stays: another process is making it")
    freed = write_bytes(sum(entry.bytes for entry in removed))
    typer.echo(f"{len(removed)} folders removed, {freed} free again")
