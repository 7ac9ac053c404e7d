"""`vectomy plan MODEL`: the writers that an edit would touch, and what it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vectomy.cli.config_file import read_config_file
from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.options import command_of, given_options, run_options
from vectomy.cli.progress_bars import bars
from vectomy.cli.vocabulary import AsJson, ConfigFile, Model, option
from vectomy.core.config import MACHINE
from vectomy.core.errors import UsageError
from vectomy.core.run_config import make_config

__all__ = ["register"]

OPTIONS = {
    name: annotation
    for name, annotation in run_options().items()
    if name
    in (
        *("device", "load_in", "embeddings", "trust_remote_code"),
        *("recipe", "seed", "answer_tokens", "n_fit", "n_search", "n_test"),
    )
}
FromRun = Annotated[
    Path | None,
    option("--refit", help="A finished run, whose times correct the plan.", panel=MACHINE, metavar="RUN"),
]


def register(app: typer.Typer) -> None:
    parameters = {"model": Model, "from_run": FromRun, **OPTIONS, "config": ConfigFile, "as_json": AsJson}
    app.command("plan", cls=SectionedCommand, rich_help_panel=JOB)(
        command_of(_plan, parameters, {"model": ..., "as_json": False})
    )


def _plan(values: dict[str, Any]) -> None:
    """List the weights that an edit would change, and memory, disk and time of each stage of a run.
    Settings are those of `run`, from its configuration file. Reads no weights; MODEL may be a
    folder with config.json alone.
    """
    from vectomy.cli.tables.plan_table import print_plan
    from vectomy.workflows.named_model import open_base
    from vectomy.workflows.needed_packages import list_missing_for_model
    from vectomy.workflows.plan import plan
    from vectomy.workflows.preflight import refuse
    from vectomy.workflows.run_plan import (
        configured_workload,
        estimate_workload,
        explain_uncounted,
        is_config_alone,
    )

    model, file = values["model"], dict(read_config_file("run", values["config"]))
    # What follows a run is no part of its plan.
    file.pop("after", None)
    config = make_config(model, given_options(values, OPTIONS), file, flags=True)
    if reason := explain_uncounted(config.recipe):
        raise UsageError(reason)
    runtime = config.runtime
    refuse(*list_missing_for_model(model, runtime.load_in))
    alone = is_config_alone(model)
    folder = model if alone else open_base(model, bars, trust_remote_code=runtime.trust_remote_code)
    result = plan(
        folder,
        embeddings=config.embeddings,
        name=model,
        device=runtime.device,
        from_run=values["from_run"],
        load_in=runtime.load_in,
        work=configured_workload(config) if alone else estimate_workload(config, Path(folder)),
        trust_remote_code=runtime.trust_remote_code,
    )
    if values["as_json"]:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        print_plan(result, config.recipe)
