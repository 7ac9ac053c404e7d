"""`vectomy edit new MODEL`: an Edit from a direction of your own."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vectomy.cli.options import AsJson, Model
from vectomy.cli.progress_bars import bars

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    making = typer.Typer(no_args_is_help=True, help="Make an Edit by hand.")
    making.command("new")(_new)
    app.add_typer(making, name="edit")


class KeptNorm(StrEnum):
    none = "none"
    column = "column"
    row = "row"


def _new(
    model: Model,
    direction: Annotated[
        str,
        typer.Option(
            metavar="FILE|random:SEED",
            help="What to remove: a .npy file, a .safetensors file with the tensor `direction` (d_model, or k x d_model), or a random one.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="EDIT", help="The Edit file to write.")],
    strength: Annotated[float, typer.Option(help="1 removes, less weakens, below 0 amplifies.")] = 1.0,
    norm: Annotated[KeptNorm, typer.Option(help="Lengths to keep: none, column or row.")] = KeptNorm.none,
    embeddings: Annotated[bool, typer.Option(help="Edit token and position embeddings too.")] = True,
    behaviour: Annotated[str, typer.Option(help="What the direction stands for, for the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an Edit that removes a direction from every writer of a model."""
    from vectomy.checkpoint import Checkpoint, architecture_in
    from vectomy.checkpoint.gguf import gguf_mark
    from vectomy.core.output_path import check_file_output
    from vectomy.edits.edit import Edit
    from vectomy.search.estimators import direction_from
    from vectomy.workflows.named_model import open_model

    check_file_output(out, direction)
    source = Checkpoint.open(open_model(model, bars))
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
        norm.value,
        embeddings,
        about,
        name=model if model == "demo" else Path(model).name,
    )
    edit.save(out)
    if as_json:
        typer.echo(
            json.dumps(
                {"edit": str(out), "sha256": edit.sha256, "operations": len(edit.operations)}, indent=2
            )
        )
        return
    typer.echo(
        f"{len(edit.operations)} writers of {edit.base}, strength {strength:g}, norm mode {norm.value}\nwritten to {out}"
    )
