"""`vectomy run`, and its stages one by one: baseline, collect, directions, report."""

from __future__ import annotations

import inspect
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vectomy.cli.options import Model, Options, default_folder
from vectomy.cli.progress_bars import bars
from vectomy.cli.trait_command import TRAIT_OPTIONS, asks_for_trait, trait_options, trait_run
from vectomy.core.config import RunConfig, load_config, make_config
from vectomy.core.errors import ArtifactError

__all__ = ["ALL_OPTIONS", "register", "run_until", "signature"]

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Run folder (runs/NAME-RECIPE); an interrupted run goes on there.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A .toml or .json configuration; options override it.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.", show_default=False)]

ALL_OPTIONS = {name: kind for name, kind in vars(Options).items() if not name.startswith("_")}
STAGE_HELP = {
    "baseline": "Measure the base model: does it show the behaviour, and by which first tokens?",
    "collect": "Collect activation statistics of both prompt sets.",
    "directions": "Make a direction per site, layer and position.",
}


def register(app: typer.Typer) -> None:
    whole = _command("report")
    whole.__doc__ = "The whole job: find the direction of a behaviour, choose an edit, write it into the weights, and show before and after."
    app.command("run")(whole)
    for stage, help in STAGE_HELP.items():
        app.command(stage, help=help + " Goes on in the same folder as `run`.")(_command(stage))
    app.command("report")(_report)


def signature(*first: inspect.Parameter) -> inspect.Signature:
    """What typer reads: the given parameters, then all options of a run."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = {"out": Out, "config": Config, "yes": Yes, "as_json": AsJson}
    named = {**ALL_OPTIONS, **shared}
    defaults = {"yes": False, "as_json": False}
    rest = [
        inspect.Parameter(n, keyword, default=defaults.get(n), annotation=kind) for n, kind in named.items()
    ]
    return inspect.Signature([*first, *rest])


def _command(until: str) -> Callable[..., None]:
    def command(**values: Any) -> None:
        run_until(until, values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    # A trait is a whole job; its stages are others.
    more = TRAIT_OPTIONS if until == "report" else {}
    traits = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in more.items()]
    command.__dict__["__signature__"] = signature(
        inspect.Parameter("model", keyword, annotation=Model), *traits
    )
    return command


def run_until(until: str, values: dict[str, Any]) -> None:
    """Build the configuration, run the stages, print what came out."""
    model = values["model"]
    options = {name: values[name] for name in ALL_OPTIONS if values.get(name) is not None}
    config, name = _configure(model, values, options)
    out: Path = values["out"] or default_folder(model, name)
    from vectomy.cli.picking import ask_person
    from vectomy.workflows.run import run

    headless = values["yes"] or not sys.stdin.isatty() or not sys.stderr.isatty()
    _announce(config, out)
    summary = run(
        config,
        out,
        until=until,  # type: ignore[arg-type]
        ask_user=None if headless else ask_person,
        command=shlex.join(["vectomy", *sys.argv[1:]]),
        progress=bars,
        log=lambda line: Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True),
    )
    if values["as_json"]:
        typer.echo(json.dumps(summary or {"folder": str(out), "until": until}, indent=2))
    elif summary:
        from vectomy.cli.tables.summary_table import print_summary

        print_summary(summary, str(out))
    else:
        typer.echo(f"done up to {until}; see {out}")


def _configure(model: str, values: dict[str, Any], options: dict[str, Any]) -> tuple[RunConfig, str]:
    """The configuration, and what the run folder is named after."""
    if asks_for_trait(values):
        recipe_options = trait_options(values, options)
        if recipe_options is None:
            config = trait_run(model, values, options)
            return config, config.trait.name
        options = recipe_options
    file = load_config(values["config"]) if values["config"] else None
    made = make_config(model, options, file)
    return made, made.recipe


def _announce(config: RunConfig, out: Path) -> None:
    """What is about to be done and what it will take, before anything is loaded."""
    contrast = config.contrast
    sets = f"{contrast.positive.prompts} against {contrast.negative.prompts}"
    if config.recipe == "distill":
        sets = f"{contrast.positive.prompts} in two contexts"
    lines = [
        f"{config.model}: {contrast.behaviour}, {sets}",
        f"recipe {config.recipe} on {config.direction_estimator}, seed {config.seed}; into {out}",
    ]
    Console(stderr=True).print("\n".join(lines), highlight=False, markup=False)


def _report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    as_json: AsJson = False,
) -> None:
    """Print the summary of a finished run again."""
    from vectomy.cli.tables.summary_table import print_summary
    from vectomy.core.run_folder import read_json

    summary = read_json(folder / "summary.json")
    if isinstance(summary, dict) and summary.get("format") == "vectomy-trait-summary":
        raise ArtifactError(
            f"{folder} was written by an earlier version; bring it up to date with the same command again: "
            f"{summary.get('command') or 'vectomy run MODEL --trait NAME --out DIR'}"
        )
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        print_summary(summary, str(folder))
