"""`vectomy plan MODEL`: the writers that an edit would touch, and what it takes."""

from __future__ import annotations

import json

import typer

from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.progress_bars import bars
from vectomy.cli.vocabulary import AsJson, Embeddings, Model, TrustRemoteCode

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("plan", cls=SectionedCommand, rich_help_panel=JOB)(_plan)


def _plan(
    model: Model,
    embeddings: Embeddings = True,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """List the weights that an edit would change, and the memory, disk and time of a run. Reads no
    weights.
    """
    from vectomy.cli.tables.plan_table import print_plan
    from vectomy.workflows.named_model import open_base
    from vectomy.workflows.plan import plan

    result = plan(
        open_base(model, bars, trust_remote_code=trust_remote_code), embeddings=embeddings, name=model
    )
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_plan(result)
