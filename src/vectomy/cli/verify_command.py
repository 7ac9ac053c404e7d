"""`vectomy verify CHECKPOINT --edit EDIT`: whether a checkpoint carries an Edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vectomy.cli.options import AsJson
from vectomy.cli.progress_bars import bars

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("verify")(_verify)


def _verify(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="The edited model: a folder or a Hub id.")
    ],
    edit: Annotated[Path, typer.Option(metavar="EDIT", help="The Edit that it is said to carry.")],
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The unedited model; with it partial strengths are judged too."),
    ] = None,
    run: Annotated[bool, typer.Option(help="Run the model and measure its residual stream.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the random texts that are run.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure on any checkpoint whether it carries an Edit; exit status 1 if a writer does not."""
    from vectomy.cli.tables.receipt_table import print_receipt
    from vectomy.metrics.verify import verify
    from vectomy.workflows.named_model import open_edit, open_model

    loaded = open_edit(edit)
    source = None if base is None else open_model(base, bars)
    receipt = verify(
        open_model(checkpoint, bars), loaded, base=source, run=run, device=device, seed=seed, progress=bars
    )
    if as_json:
        typer.echo(json.dumps(receipt.to_json(), indent=2))
    else:
        print_receipt(receipt)
    if receipt.failures:
        raise typer.Exit(1)
