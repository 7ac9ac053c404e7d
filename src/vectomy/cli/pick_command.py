"""`vectomy pick RUN`: the points of a run with their numbers; another one as an Edit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.output_folder import at_terminal, write_file
from vectomy.cli.vocabulary import (
    EDIT,
    AsJson,
    Overwrite,
    Run,
    ThreadCount,
    TrustRemoteCode,
    Yes,
    base_option,
    option,
    out_option,
    strength_option,
)
from vectomy.core.config import OUTPUT

if TYPE_CHECKING:
    from vectomy.workflows.run_points import RunPoint, RunPoints

__all__ = ["default_file", "register"]

NOT_CARRIED = "not_carried"
"""Of a receipt: the written checkpoint is not the edit."""
PICKED = "picked"
"""The folder of picked Edits in a run."""


def register(app: typer.Typer) -> None:
    app.command("pick", cls=SectionedCommand, rich_help_panel=JOB)(_pick)


def _pick(
    run: Run,
    take: Annotated[
        str | None,
        option("--take", help="Write the Edit of this point of the table.", panel=EDIT, metavar="POINT"),
    ] = None,
    strength: Annotated[float, strength_option("multiplies that of the point.")] = 1.0,
    bake: Annotated[
        bool,
        option("--bake/--no-bake", help="Write the edited checkpoint: not the Edit alone.", panel=OUTPUT),
    ] = False,
    out: Annotated[
        Path | None,
        out_option(
            "PATH", "a file for the Edit, a new folder with --bake. [default: RUN/picked/POINT.safetensors]"
        ),
    ] = None,
    base: Annotated[
        str | None, base_option("needed for --bake if the run names a folder that has moved.")
    ] = None,
    overwrite: Overwrite = False,
    yes: Yes = False,
    threads: ThreadCount = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """List the edits that a run measured, with their numbers and the one that its rule took; with
    --take, write another one. At a terminal, a menu follows. Exit status 1 if a written weight is
    NaN or infinite.
    """
    from vectomy.cli.next_steps import ask_next, quote_command
    from vectomy.cli.tables.points_table import print_points
    from vectomy.core.after_run import AfterRun
    from vectomy.core.errors import UsageError
    from vectomy.workflows.run_points import read_points

    points = read_points(run)
    if take is None:
        if bake or out is not None or strength != 1.0:
            raise UsageError("--bake, --out and --strength are of a point; name it with --take POINT")
        if as_json:
            typer.echo(json.dumps(points.to_json(), indent=2))
            return
        print_points(points)
        if at_terminal() and not yes:
            ask_next(run, AfterRun())
            return
        other = next((point for point in points.shown if not point.chosen and not point.missing), None)
        if other is not None:
            typer.echo(f"another {quote_command(['vectomy', 'pick', str(run), '--take', other.name])}")
        return
    point = points.find(take)
    written = (
        _bake(points, point, strength, out, base, trust_remote_code)
        if bake
        else _save(points, point, strength, out, overwrite)
    )
    if as_json:
        taken = {"point": point.name, "strength": strength, **written}
        typer.echo(json.dumps({**points.to_json(), "written": taken}, indent=2))
    elif written.get("status") == NOT_CARRIED:
        typer.echo(f"FAILED: {written['reason']}; the checkpoint in {written['path']} is not the edit")
    else:
        typer.echo(f"point {point.name} at strength {strength:g}, written to {written['path']}")
    if written.get("status") == NOT_CARRIED:
        raise typer.Exit(1)


def _save(
    points: RunPoints, point: RunPoint, strength: float, out: Path | None, overwrite: bool
) -> dict[str, str]:
    """Write the Edit of a point; a file of other content is not replaced in silence."""
    from vectomy.core.output_path import check_file_output
    from vectomy.workflows.run_points import open_point

    edit = open_point(points.folder, point, strength)
    file = out or default_file(points.folder, point, strength)
    if out is None:
        file.parent.mkdir(exist_ok=True)
    check_file_output(file, points.folder / "edit.safetensors")
    file = write_file(lambda path, replace: edit.save(path, overwrite=replace), file, overwrite)
    return {"path": str(file), "sha256": edit.sha256}


def _bake(
    points: RunPoints,
    point: RunPoint,
    strength: float,
    out: Path | None,
    base: str | None,
    trust_remote_code: bool,
) -> dict[str, str]:
    """Write the edited checkpoint of a point into a new folder."""
    from vectomy.cli.progress_bars import bars
    from vectomy.core.errors import UsageError
    from vectomy.workflows.named_model import base_named_by
    from vectomy.workflows.run_points import open_point
    from vectomy.workflows.write_export import write_export

    if out is None:
        raise UsageError("--bake writes a checkpoint; give its new folder with --out DIR")
    model = base or base_named_by(str(points.folder))
    if model is None:
        raise UsageError(f"the run {points.folder} names no base; give it with --base MODEL")
    edit = open_point(points.folder, point, strength)
    receipt = write_export(edit, model, out, trust_remote_code=trust_remote_code, progress=bars)
    status = receipt.status or "carried"
    return {"path": str(out), "sha256": edit.sha256, "status": status, "reason": receipt.reason or ""}


def default_file(run: Path, point: RunPoint, strength: float) -> Path:
    """RUN/picked/POINT.safetensors, with the strength where it is not 1."""
    name = re.sub(r"[^\w.-]", "_", point.name)
    dial = "" if strength == 1.0 else f"-strength-{strength:g}"
    return run / PICKED / f"{name}{dial}.safetensors"
