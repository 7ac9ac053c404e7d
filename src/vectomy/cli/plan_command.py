"""`vectomy plan MODEL`: the writers that an edit would touch, and what it takes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vectomy.cli.options import AsJson, Model
from vectomy.cli.progress_bars import bars

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("plan")(_plan)


def _plan(
    model: Model,
    embeddings: Annotated[bool, typer.Option(help="Edit token and position embeddings too.")] = True,
    as_json: AsJson = False,
) -> None:
    """List the writers that an edit would touch, and the memory, disk and time that it takes. Reads
    no weights.
    """
    from vectomy.cli.tables.plan_table import print_plan
    from vectomy.workflows.named_model import open_model
    from vectomy.workflows.plan import plan

    result = plan(open_model(model, bars), embeddings=embeddings)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_plan(result)
