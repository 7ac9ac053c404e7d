"""`vectomy plan MODEL`: the writers that an edit would touch, and what it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.progress_bars import bars
from vectomy.cli.vocabulary import AsJson, Device, Embeddings, LoadInOption, Model, TrustRemoteCode, option
from vectomy.core.config import MACHINE

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("plan", cls=SectionedCommand, rich_help_panel=JOB)(_plan)


def _plan(
    model: Model,
    from_run: Annotated[
        Path | None,
        option("--refit", help="A finished run, whose times correct the plan.", panel=MACHINE, metavar="RUN"),
    ] = None,
    device: Device = "auto",
    load_in: LoadInOption = None,
    embeddings: Embeddings = True,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """List the weights that an edit would change, and memory, disk and time of each stage of a run.
    Reads no weights; MODEL may be a folder with config.json alone.
    """
    from vectomy.cli.tables.plan_table import print_plan
    from vectomy.workflows.named_model import open_base
    from vectomy.workflows.needed_packages import list_missing_for_model
    from vectomy.workflows.plan import plan
    from vectomy.workflows.preflight import refuse
    from vectomy.workflows.run_plan import is_config_alone

    refuse(*list_missing_for_model(model, load_in))
    alone = is_config_alone(model)
    folder = model if alone else open_base(model, bars, trust_remote_code=trust_remote_code)
    result = plan(
        folder,
        embeddings=embeddings,
        name=model,
        device=device,
        from_run=from_run,
        load_in=load_in,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_plan(result)
