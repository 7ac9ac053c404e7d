"""`vectomy run`, and its stages one by one: baseline, collect, directions."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vectomy.cli.config_file import read_config_file
from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.help import STAGES as STAGES_SECTION
from vectomy.cli.options import (
    SOURCE_HELP,
    command_of,
    default_folder,
    field_options,
    given_options,
    run_options,
)
from vectomy.cli.output_folder import ask_about_folder, at_terminal, work_in_folder
from vectomy.cli.progress_bars import bars
from vectomy.cli.terminal import log_line
from vectomy.cli.trait_command import TRAIT_OPTIONS, asks_for_trait, configure_trait, trait_options
from vectomy.cli.vocabulary import AsJson, ConfigFile, DryRun, Model, Overwrite, Yes, out_option
from vectomy.core.after_run import AfterRun, Tracker
from vectomy.core.config import validate_config, write_flag
from vectomy.core.errors import ConfigError, UsageError, VectomyError
from vectomy.core.ranks import is_launched
from vectomy.core.results import RunResults
from vectomy.core.run_config import HUB_PROMPTS, RunConfig, make_config

__all__ = ["FLAGS", "RUN_OPTIONS", "SHARED", "register", "run_until"]

RUN_OPTIONS = run_options()
AFTER_OPTIONS = field_options(AfterRun)
Out = Annotated[
    Path | None,
    out_option(
        "DIR",
        "a run folder; an interrupted run resumes there. [default: runs/NAME-RECIPE, "
        "numbered where that holds results of other settings]",
    ),
]
SHARED = {
    "out": Out,
    "overwrite": Overwrite,
    "config": ConfigFile,
    "yes": Yes,
    "dry_run": DryRun,
    "as_json": AsJson,
}
FLAGS = {"overwrite": False, "yes": False, "dry_run": False, "as_json": False}
STAGES = {
    "baseline": "Measure whether the base shows the behaviour, and with which first tokens.",
    "collect": "Collect activation statistics of both prompt sets.",
    "directions": "Compute a direction for each site, layer and position.",
}


def register(app: typer.Typer) -> None:
    app.command(
        "run",
        cls=SectionedCommand,
        rich_help_panel=JOB,
        epilog=f"{SOURCE_HELP} Without --positive and --negative, {HUB_PROMPTS['positive']} and "
        f"{HUB_PROMPTS['negative']} are downloaded from the Hub (as Heretic does).",
    )(
        command_of(
            _run,
            {"model": Model, **RUN_OPTIONS, **TRAIT_OPTIONS, **AFTER_OPTIONS, **SHARED},
            {"model": ..., **FLAGS},
        )
    )
    for stage, text in STAGES.items():
        app.command(
            stage,
            cls=SectionedCommand,
            rich_help_panel=STAGES_SECTION,
            help=f"{text} The same stage as in `run`, in the same folder.",
            epilog=SOURCE_HELP,
        )(
            command_of(
                partial(run_until, stage), {"model": Model, **RUN_OPTIONS, **SHARED}, {"model": ..., **FLAGS}
            )
        )


def _run(values: dict[str, Any]) -> None:
    """Find the direction of a behaviour, write an edit into the weights, and measure before and
    after.
    """
    run_until("report", values)


def run_until(until: str, values: dict[str, Any]) -> None:
    """Build the configuration, run the stages, print what came out."""
    model = values["model"]
    options = given_options(values, RUN_OPTIONS)
    file = dict(read_config_file("run", values["config"]))
    after = _parse_after(values, file)
    config, name = _configure(model, values, options, file)
    from vectomy.cli.picking import ask_person
    from vectomy.models import join_ranks
    from vectomy.workflows.named_model import check_base
    from vectomy.workflows.run import run

    check_base(model)
    if values["dry_run"]:
        _preview(config, values["out"] or default_folder(model, name), until, as_json=values["as_json"])
        return

    first = join_ranks(config.runtime.device, config.runtime.tensor_parallel).is_first
    headless = values["yes"] or not at_terminal()

    def work(folder: Path, overwrite: bool) -> RunResults:
        if first:
            _announce(config, folder)
        return run(
            config,
            folder,
            until=until,  # type: ignore[arg-type]
            overwrite=overwrite,
            ask_user=None if headless else ask_person,
            command=shlex.join(["vectomy", *sys.argv[1:]]),
            progress=bars,
            log=log_line,
        )

    results, out = work_in_folder(
        work,
        values["out"],
        default_folder(model, name),
        overwrite=values["overwrite"],
        ask=None if headless else ask_about_folder,
    )
    if not first:
        return
    summary = results.to_json()
    if values["as_json"]:
        typer.echo(json.dumps(summary or {"folder": str(out), "until": until}, indent=2))
    elif summary:
        from vectomy.cli.tables.summary_table import print_summary

        print_summary(summary, str(out))
    else:
        typer.echo(f"done up to {until}; see {out}")
    if not summary:
        return
    if after.report_to != "none":
        _report(out, after.report_to)
    if not values["as_json"]:
        _go_on(out, after, asked=not headless)


def _report(out: Path, tracker: Tracker) -> None:
    """Pass the numbers to a tracker; the run is done, whatever that says."""
    from vectomy.workflows.run_tracker import report_run

    try:
        report_run(out, tracker)
    except VectomyError as error:
        log_line(str(error))


def _preview(config: RunConfig, out: Path, until: str, *, as_json: bool) -> None:
    from vectomy.cli.tables.preview_table import print_preview
    from vectomy.workflows.job_preview import preview_run

    print_preview(preview_run(config, out, until, bars, log_line), as_json)


def _go_on(out: Path, after: AfterRun, *, asked: bool) -> None:
    """The next command lines; then the step that was named, or the menu."""
    from vectomy.cli.next_steps import ask_next, list_next, run_then

    typer.echo("\n".join(list_next(out)))
    if after.then is not None:
        run_then(out, after)
    elif asked:
        ask_next(out, after)


def _parse_after(values: dict[str, Any], file: dict[str, Any]) -> AfterRun:
    """What follows the run; takes the table `after` out of a configuration file.

    Raises:
        ConfigError: an unknown key or value.
        UsageError: an answer that leads nowhere.
    """
    from vectomy.workflows.preflight import refuse
    from vectomy.workflows.run_tracker import explain_missing_tracker

    stored = file.pop("after", {})
    if not isinstance(stored, dict):
        raise ConfigError(f"configuration key 'after' is {stored!r}; it takes keys of its own")
    given = given_options(values, AFTER_OPTIONS)
    typed = {name: write_flag(name) for name in given}
    after = validate_config(AfterRun, {**stored, **given}, typed)
    refuse(explain_missing_tracker(after.report_to))
    after.check(asked=not values["yes"] and not values["as_json"] and at_terminal())
    if after.then not in (None, "nothing"):
        if values["as_json"]:
            raise UsageError("--then prints text of its own; leave --json out, or run the step by itself")
        if is_launched():
            raise UsageError("--then works in one process; run the step after the run")
    return after


def _configure(
    model: str, values: dict[str, Any], options: dict[str, Any], file: dict[str, Any]
) -> tuple[RunConfig, str]:
    """The configuration, and what the run folder is named after."""
    if asks_for_trait(values):
        recipe_options = trait_options(values, options)
        if recipe_options is None:
            config = configure_trait(model, values, options)
            if unused := _list_set(file):
                log_line(
                    f"the trait has settings of its own; {', '.join(unused)} of the file "
                    f"{'is' if len(unused) == 1 else 'are'} not used"
                )
            return config, config.trait.name
        options = recipe_options
    made = make_config(model, options, file, flags=True)
    return made, made.recipe


def _list_set(table: dict[str, Any], place: str = "") -> list[str]:
    """The keys of a configuration file that have a value of their own: `contrast.n_fit`."""
    result = []
    for key, value in table.items():
        name = f"{place}{key}"
        result += _list_set(value, f"{name}.") if isinstance(value, dict) else [name]
    return result


def _announce(config: RunConfig, out: Path) -> None:
    """What is about to be done and what it will take, before anything is loaded."""
    contrast = config.contrast
    sets = f"{contrast.positive.prompts} against {contrast.negative.prompts}"
    if config.recipe == "distill":
        sets = f"{contrast.positive.prompts} in two contexts"
    usual = [
        source.prompts
        for side, source in (("positive", contrast.positive), ("negative", contrast.negative))
        if source.prompts == HUB_PROMPTS[side]
    ]
    loud = " (masked where a coordinate is loud)" if config.chooses_estimator else ""
    lines = [
        f"{config.model}: {contrast.behaviour}, {sets}",
        f"recipe {config.recipe} on {config.direction_estimator}{loud}, seed {config.seed}; into {out}",
    ]
    if usual and config.recipe != "distill":
        lines.append(
            f"prompts: {' and '.join(usual)} of the Hub, the default; give your own with --positive SRC and "
            "--negative SRC"
        )
    log_line("\n".join(lines))
