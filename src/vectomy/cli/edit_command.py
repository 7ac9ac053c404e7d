"""`vectomy edit new MODEL`: an Edit from a direction of your own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from vectomy.cli.help import MAKE, SectionedCommand, SectionedGroup
from vectomy.cli.output_folder import write_file
from vectomy.cli.progress_bars import bars
from vectomy.cli.vocabulary import (
    EDIT,
    AsJson,
    Embeddings,
    Model,
    Overwrite,
    TrustRemoteCode,
    direction_option,
    option,
    out_option,
    strength_option,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    making = typer.Typer(
        cls=SectionedGroup,
        no_args_is_help=True,
        help="Make an Edit from a direction of your own: `vectomy edit new`.",
    )
    making.command("new", cls=SectionedCommand)(_new)
    app.add_typer(making, name="edit", rich_help_panel=MAKE)


def _new(
    model: Model,
    direction: Annotated[str, direction_option("it is removed. Its shape is d_model, or k x d_model.")],
    out: Annotated[Path, out_option("FILE", "a new file for the Edit.")],
    strength: Annotated[float, strength_option("1 removes, less weakens, below 0 amplifies.")] = 1.0,
    norm: Annotated[
        Literal["none", "column", "row"],
        option("--norm", help="Weight norms that the edit preserves.", panel=EDIT),
    ] = "none",
    embeddings: Embeddings = True,
    behaviour: Annotated[
        str,
        option(
            "--behaviour",
            help="Name of the behaviour, for tables and the model card.",
            panel=EDIT,
            metavar="NAME",
        ),
    ] = "",
    trust_remote_code: TrustRemoteCode = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make an Edit that removes a direction from every writer of a model."""
    from vectomy.checkpoint import Checkpoint, architecture_in
    from vectomy.checkpoint.gguf import gguf_mark
    from vectomy.core.output_path import check_file_output
    from vectomy.core.repo_name import split_revision
    from vectomy.edits.edit import Edit
    from vectomy.search.estimators import direction_from
    from vectomy.workflows.named_model import open_base

    check_file_output(out, direction)
    source = Checkpoint.open(open_base(model, bars, trust_remote_code=trust_remote_code))
    check_file_output(out, source.path)
    rows = direction_from(direction, architecture_in(source).d_model)
    about = {
        "behaviour": behaviour or "a direction given by hand",
        "direction": Path(direction).name,
        **gguf_mark(model),
    }
    edit = Edit.ablation(
        source,
        rows,
        strength,
        norm,
        embeddings,
        about,
        name=model if model == "demo" else Path(split_revision(model)[0]).name,
    )
    out = write_file(lambda file, replace: edit.save(file, overwrite=replace), out, overwrite)
    if as_json:
        typer.echo(
            json.dumps(
                {"edit": str(out), "sha256": edit.sha256, "operations": len(edit.operations)}, indent=2
            )
        )
        return
    typer.echo(
        f"{len(edit.operations)} writers of {edit.base}, strength {strength:g}, norm mode {norm}\n"
        f"written to {out}"
    )
