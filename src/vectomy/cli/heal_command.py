"""`vectomy heal MODEL`: trains an edited model to repair the damage of the edit, measured before
and after.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from vectomy.cli.config_file import read_config_file
from vectomy.cli.help import MEASURE, SectionedCommand
from vectomy.cli.options import (
    SOURCE_HELP,
    command_of,
    config_options,
    flags_of,
    given_options,
)
from vectomy.cli.output_folder import ask_about_folder, at_terminal, work_in_folder
from vectomy.cli.progress_bars import bars
from vectomy.cli.terminal import log_line
from vectomy.cli.vocabulary import (
    EDIT,
    EDIT_HELP,
    MODEL_HELP,
    AsJson,
    ConfigFile,
    DryRun,
    Overwrite,
    base_option,
    option,
    out_option,
    strength_option,
)
from vectomy.core.config import EXPERT, OUTPUT
from vectomy.core.json_value import JsonObject
from vectomy.core.repo_name import split_revision
from vectomy.healing.heal_config import HealConfig, parse_heal

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    parameters = {**get_type_hints(HealOptions, include_extras=True), **OPTIONS}
    usual = {"model": ..., "resume": True, "overwrite": False, "dry_run": False, "as_json": False}
    app.command("heal", cls=SectionedCommand, rich_help_panel=MEASURE, epilog=SOURCE_HELP)(
        command_of(_heal, parameters, usual)
    )


@dataclass(frozen=True)
class HealOptions:
    """The options of `vectomy heal` that are not in its configuration."""

    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=f"{MODEL_HELP} With --base, an edited checkpoint instead. A run folder stands for its model "
            "and its Edit.",
        ),
    ]
    out: Annotated[
        Path | None,
        out_option(
            "DIR",
            "a folder; an interrupted run resumes there. [default: runs/NAME-healed, "
            "numbered where that holds results of other settings]",
        ),
    ] = None
    edit: Annotated[str | None, option("--edit", help=EDIT_HELP, panel=EDIT, metavar="EDIT")] = None
    strength: Annotated[float | None, strength_option("multiplies the Edit's own strengths.")] = None
    base: Annotated[str | None, base_option("needed if MODEL is an edited checkpoint.")] = None
    launch: Annotated[
        str | None,
        option(
            "--launch",
            help="Train in several processes by accelerate: ddp, zero2, zero3, fsdp, cpu, or a configuration "
            "file.",
            metavar="NAME|FILE",
            panel=EXPERT,
        ),
    ] = None
    processes: Annotated[
        int | None,
        option(
            "--processes",
            help="Number of parallel processes: those that train. [default: one for each card]",
            panel=EXPERT,
        ),
    ] = None
    trained: Annotated[
        Path | None,
        option(
            "--trained",
            help="Do not train: merge and measure this adapter, trained elsewhere on the edited model.",
            metavar="DIR",
            panel=EXPERT,
        ),
    ] = None
    resume: Annotated[
        bool,
        option("--resume/--restart", help="Resume an interrupted run, or start again.", panel=OUTPUT),
    ] = True
    overwrite: Overwrite = False
    config: ConfigFile = None
    export_axolotl: Annotated[
        Path | None,
        option(
            "--export-axolotl",
            help="Write the same training as an Axolotl configuration, and stop.",
            metavar="FILE",
            panel=EXPERT,
        ),
    ] = None
    from_axolotl: Annotated[
        Path | None,
        option(
            "--from-axolotl",
            help="Read the training from an Axolotl configuration; options override it.",
            metavar="FILE",
            panel=EXPERT,
        ),
    ] = None
    until: Annotated[
        Literal["edited", "rows", "train", "merge", "measure"] | None,
        option("--until", help="Stop after this stage.", panel=EXPERT),
    ] = None
    dry_run: DryRun = False
    as_json: AsJson = False


OPTIONS = config_options(
    HealConfig,
    flags={"learning_rate": ("--learning-rate", "--lr"), "merge": ("--merge/--adapter",)},
    metavars={
        "preferences": "SRC",
        "prompts": "SRC",
        "positive_test": "SRC",
        "negative_test": "SRC",
        "target_modules": "NAME,...",
        "tasks": "SUITE|TASK|FILE.yaml,...",
    },
)


def _heal(values: dict[str, Any]) -> None:
    """Train an edited model to repair the damage of the edit without restoring the behaviour. It
    learns from preferences or from the base's own answers; a table compares the base, the edited
    and the healed model.
    """
    job = HealOptions(**{field.name: values[field.name] for field in dataclasses.fields(HealOptions)})
    options = given_options(values, OPTIONS)
    file, notes = _files(job.config, job.from_axolotl)
    for note in notes:
        log_line(f"not taken from {job.from_axolotl}: {note}")
    if job.model == "demo":
        file = {"prompts": "bundled:harmless", "preferences": "own", **file}
    typed = flags_of(OPTIONS)
    parsed = parse_heal({**file, **options}, {name: typed[name] for name in options})
    out = job.out or Path("runs") / f"{Path(split_revision(job.model)[0]).resolve().name}-healed"
    if job.export_axolotl is not None:
        _export(job.export_axolotl, parsed, out, job.launch)
        return
    if job.dry_run:
        _preview(job, parsed, out)
        return
    if not job.resume:
        _restart(out)
    from vectomy.workflows.heal.heal_model import heal_model

    job = _with_run(job)
    edit = _edit(job.edit, job.strength)

    def work(folder: Path, overwrite: bool) -> JsonObject:
        results = heal_model(
            job.model,
            folder,
            parsed,
            edit=edit,
            base=job.base,
            trained=job.trained,
            launcher=job.launch,
            processes=job.processes,
            until=job.until or "report",
            overwrite=overwrite,
            command=shlex.join(["vectomy", *sys.argv[1:]]),
            progress=bars,
            log=log_line,
        )
        return results.to_json()

    summary, out = work_in_folder(
        work, job.out, out, overwrite=job.overwrite, ask=ask_about_folder if at_terminal() else None
    )
    if job.as_json:
        typer.echo(json.dumps(summary or {"folder": str(out), "until": job.until}, indent=2))
    elif summary:
        from vectomy.cli.tables.healing_table import print_healing

        print_healing(summary, str(out))
    else:
        typer.echo(f"done up to {job.until}; see {out}")


def _preview(job: HealOptions, config: HealConfig, out: Path) -> None:
    from vectomy.cli.tables.preview_table import print_preview
    from vectomy.workflows.job_preview import preview_healing

    job = _with_run(job)
    preview = preview_healing(
        job.model,
        out,
        config,
        edit=_edit(job.edit, job.strength),
        base=job.base,
        trained=job.trained,
        until=job.until or "report",
        progress=bars,
        log=log_line,
    )
    print_preview(preview, job.as_json)


def _with_run(job: HealOptions) -> HealOptions:
    """With the folder of a run as MODEL, its base and its Edit; with any other MODEL, the same job.

    Raises:
        UsageError: MODEL or --base is no model.
        EditError: the run has no Edit.
    """
    from vectomy.workflows.named_model import base_named_by, check_base, edited_model, kind_of

    if job.base is not None:
        job = dataclasses.replace(job, model=edited_model(job.model))
    elif kind_of(job.model) == "run" and job.edit is None:
        base = base_named_by(job.model)
        if base is not None:
            job = dataclasses.replace(job, model=base, edit=job.model)
    for name in (job.model, job.base):
        if name is not None:
            check_base(name)
    return job


def _files(config: Path | None, axolotl: Path | None) -> tuple[dict[str, Any], list[str]]:
    """The settings of all files; a file that was given goes over the one that was found."""
    stored = read_config_file("heal", config)
    if axolotl is None:
        return dict(stored), []
    from vectomy.healing.axolotl import read_axolotl

    values, notes = read_axolotl(axolotl)
    return {**stored, **values} if config is None else {**values, **stored}, notes


def _edit(file: str | None, strength: float | None) -> Any:
    if file is None:
        return None
    from vectomy.workflows.named_model import open_edit

    edit = open_edit(file)
    return edit if strength is None else edit * strength


def _export(file: Path, config: Any, out: Path, launch: str | None) -> None:
    from vectomy.healing.axolotl import to_axolotl, write_axolotl

    rows = out / "preferences.jsonl"
    values = to_axolotl(config, str(out / "edited"), str(rows) if rows.is_file() else None, launch)
    write_axolotl(file, values, config.project)
    typer.echo(f"{file}: trains {out / 'edited'}, which `vectomy heal --until edited` writes")


def _restart(out: Path) -> None:
    """Delete the folder of an earlier run. Any other folder is refused."""
    import shutil

    from vectomy.core.run_folder import RunFolder

    if out.exists():
        with RunFolder(out):
            pass
        shutil.rmtree(out)
