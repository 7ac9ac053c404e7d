"""`vectomy show EDIT`: what an Edit changes."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.table import Table

from vectomy.cli.help import MAKE, SectionedCommand
from vectomy.cli.terminal import open_console
from vectomy.cli.vocabulary import AsJson, Edit

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("show", cls=SectionedCommand, rich_help_panel=MAKE)(_show)


def _show(edit: Edit, as_json: AsJson = False) -> None:
    """Show what an Edit changes: its base, its behaviour, and the operation on each writer."""
    from vectomy.workflows.named_model import open_edit

    loaded = open_edit(edit)
    rows: list[dict[str, Any]] = [
        {
            "writer": op.writer_name,
            "directions": len(op.basis),
            "strengths": [round(float(value), 6) for value in op.strengths],
            "norm": op.norm,
            "addition": None if op.addition is None else round(float(op.addition.norm()), 6),
        }
        for op in loaded.operations
    ]
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "base": vars(loaded.base),
                    "about": loaded.about,
                    "sha256": loaded.sha256,
                    "operations": rows,
                },
                indent=2,
            )
        )
        return
    base = loaded.base
    table = Table(
        title=f"{loaded.about.get('behaviour', 'an edit')} of {base.name or base.model_type}",
        title_justify="left",
    )
    for column in ("writer", "directions", "strengths", "norm kept", "addition"):
        table.add_column(column)
    for row in rows:
        strengths = ", ".join(f"{value:g}" for value in row["strengths"])
        table.add_row(
            row["writer"],
            str(row["directions"]),
            strengths,
            row["norm"],
            "" if row["addition"] is None else str(row["addition"]),
        )
    console = open_console()
    console.print(table)
    console.print(
        f"base    {base.model_type}, {base.n_layers} layers of width {base.d_model}, "
        f"weights {base.fingerprint[:12]}\n"
        f"about   {json.dumps(loaded.about, ensure_ascii=False)}\nsha256  {loaded.sha256}",
        highlight=False,
        soft_wrap=True,
    )
