"""`vectomy ls [FOLDER]`: the runs below a folder, with their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.tables.cells import MISSING, shown, text_cell
from vectomy.cli.terminal import open_console
from vectomy.cli.vocabulary import AsJson
from vectomy.core.errors import UsageError
from vectomy.core.suggestions import suggest_path

if TYPE_CHECKING:
    from vectomy.core.listed_runs import ListedRun
    from vectomy.core.results.result_parts import Rate

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("ls", cls=SectionedCommand, rich_help_panel=JOB)(_ls)


def _ls(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="[FOLDER]",
            help="Where runs are looked for, three folders deep. [default: the working folder]",
            show_default=False,
        ),
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """List runs, healings and evaluations with what they changed, newest first. Of a healing, the
    numbers are those before and after it.
    """
    from vectomy.core.listed_runs import list_runs

    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder{suggest_path(folder)}; give one that holds runs")
    runs = list_runs(folder)
    if as_json:
        typer.echo(json.dumps([run.to_json() for run in runs], indent=2, ensure_ascii=False))
        return
    if not runs:
        typer.echo(f"no runs in {folder.resolve()} or three folders below it", err=True)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("folder", "what", "model", "before -> after", "degenerate", "KL", "finished"):
        whole = column in ("before -> after", "degenerate", "KL")
        table.add_column(
            column, justify="right" if column == "KL" else "left", overflow="fold", no_wrap=whole
        )
    for run in runs:
        table.add_row(*_cells(run))
    open_console().print(table)


def _cells(run: ListedRun) -> tuple[str, ...]:
    model = None if run.model is None else Path(run.model).name
    what = run.kind if run.kind != "run" else " ".join(filter(None, (run.behaviour, run.recipe)))
    unfinished = f"no, up to {run.stage}" if run.stage else "no"
    state = {"finished": run.date[:10], "unfinished": unfinished, "damaged": str(run.fault)}
    rates = f"{shown(run.degenerate_before, '.0%')} -> {shown(run.degenerate_after, '.0%')}"
    return (
        str(run.folder),
        what or run.kind,
        text_cell(model),
        f"{_count(run.before)} -> {_count(run.after)}" if run.before or run.after else MISSING,
        rates if run.degenerate_after is not None else MISSING,
        shown(run.kl_first_token if run.kl_per_token is None else run.kl_per_token, ".3f"),
        state[run.state],
    )


def _count(rate: Rate | None) -> str:
    if rate is None:
        return MISSING
    return f"{rate.count}/{rate.total}" if rate.total else shown(rate.rate, ".0%")
