"""`vectomy edit new MODEL`, `vectomy show EDIT` and `vectomy apply EDIT MODEL`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vectomy.cli.coverage import print_receipt, source_of
from vectomy.cli.options import Model
from vectomy.cli.progress import bars
from vectomy.cli.run import AsJson

if TYPE_CHECKING:
    from vectomy.edit import Edit
    from vectomy.record import Form as Written

__all__ = ["register"]

EditFile = Annotated[Path, typer.Argument(metavar="EDIT", help="An Edit file, or a run folder that holds one.")]


def register(app: typer.Typer) -> None:
    app.command("show")(_show)
    app.command("apply")(_apply)
    making = typer.Typer(no_args_is_help=True, help="Make an Edit by hand.")
    making.command("new")(_new)
    app.add_typer(making, name="edit")


def _load(path: Path) -> Edit:
    from vectomy.edit import Edit

    return Edit.load(path / "edit.safetensors" if path.is_dir() else path)


def _show(edit: EditFile, as_json: AsJson = False) -> None:
    """Say what an Edit changes: base, behaviour, and the operation on each writer."""
    loaded = _load(edit)
    rows: list[dict[str, Any]] = [
        {
            "writer": op.writer_name,
            "directions": len(op.basis),
            "strengths": [round(float(value), 6) for value in op.strengths],
            "norm": op.norm,
            "addition": None if op.addition is None else round(float(op.addition.norm()), 6),
        }
        for op in loaded.operations
    ]
    if as_json:
        typer.echo(
            json.dumps(
                {"base": vars(loaded.base), "about": loaded.about, "sha256": loaded.sha256, "operations": rows},
                indent=2,
            )
        )
        return
    base = loaded.base
    table = Table(
        title=f"{loaded.about.get('behaviour', 'an edit')} of {base.name or base.model_type}", title_justify="left"
    )
    for column in ("writer", "directions", "strengths", "norm kept", "addition"):
        table.add_column(column)
    for row in rows:
        strengths = ", ".join(f"{value:g}" for value in row["strengths"])
        table.add_row(
            row["writer"],
            str(row["directions"]),
            strengths,
            row["norm"],
            "" if row["addition"] is None else str(row["addition"]),
        )
    console = Console()
    console.print(table)
    console.print(
        f"base    {base.model_type}, {base.n_layers} layers of width {base.d_model}, weights {base.fingerprint[:12]}\n"
        f"about   {json.dumps(loaded.about, ensure_ascii=False)}\nsha256  {loaded.sha256}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


class Kept(StrEnum):
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
    norm: Annotated[Kept, typer.Option(help="Lengths to keep: none, column or row.")] = Kept.none,
    embeddings: Annotated[bool, typer.Option(help="Edit token and position embeddings too.")] = True,
    behaviour: Annotated[str, typer.Option(help="What the direction stands for, for the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an Edit that removes a direction from every writer of a model."""
    from vectomy.checkpoint import Checkpoint, architecture_in
    from vectomy.directions import direction_from
    from vectomy.edit import Edit
    from vectomy.errors import EditError

    if out.is_dir():
        raise EditError(f"{out} is a folder; give a file name for the Edit (edit.safetensors)")
    source = Checkpoint.open(source_of(model))
    rows = direction_from(direction, architecture_in(source).d_model)
    about = {"behaviour": behaviour or "a direction given by hand", "direction": Path(direction).name}
    edit = Edit.ablation(
        source, rows, strength, norm.value, embeddings, about, name=model if model == "demo" else Path(model).name
    )
    edit.save(out)
    if as_json:
        typer.echo(json.dumps({"edit": str(out), "sha256": edit.sha256, "operations": len(edit.operations)}, indent=2))
        return
    typer.echo(
        f"{len(edit.operations)} writers of {edit.base}, strength {strength:g}, norm mode {norm.value}\nwritten to {out}"
    )


class Form(StrEnum):
    checkpoint = "checkpoint"
    lora = "lora"


def _apply(
    edit: EditFile,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The base that the Edit was made for: a folder, a Hub id, or `demo`.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the edited checkpoint or the adapter.")],
    strength: Annotated[float, typer.Option(help="Times the Edit's own strengths.")] = 1.0,
    form: Annotated[
        Form, typer.Option("--as", help="The whole edited checkpoint, or a PEFT adapter of the exact rank.")
    ] = Form.checkpoint,
    link: Annotated[
        bool, typer.Option(help="Hard-link shards that the edit does not touch instead of copying them.")
    ] = False,
    verified: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Run the edited checkpoint and measure its stream; hash what was written."
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write an Edit into a copy of its base, shard by shard, or as an adapter; print the coverage receipt."""
    from vectomy.apply import bake
    from vectomy.verification import measured

    chosen, source = _load(edit) * strength, source_of(model)
    if form is Form.lora:
        from vectomy.apply.lora import write_lora

        receipt = write_lora(chosen, source, out, progress=bars)
        _record(out, "adapter", chosen, model, source)
    else:
        receipt = bake(chosen, source, out, link_untouched=link, progress=bars)
        if verified:
            receipt = measured(receipt, out, chosen, progress=bars)
        _record(out, "checkpoint", chosen, model, source, hashed=verified)
    print_receipt(receipt, as_json)
    if not as_json:
        typer.echo(f"written to {out}")


def _record(out: Path, form: Written, edit: Edit, model: str, source: Path, hashed: bool = True) -> None:
    """Beside what was written: of which base and which Edit it is, for `push` and `reproduce`."""
    from vectomy.record import write_record
    from vectomy.summary import versions

    write_record(out, form, edit, model=model, source=source, versions=versions(), hashed=hashed, progress=bars)
