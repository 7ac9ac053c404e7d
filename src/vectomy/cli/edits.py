"""`vectomy show EDIT` and `vectomy apply EDIT MODEL`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vectomy.cli.progress import bars
from vectomy.cli.run import AsJson

if TYPE_CHECKING:
    from vectomy.edit import Edit

__all__ = ["register"]

EditFile = Annotated[Path, typer.Argument(metavar="EDIT", help="An Edit file, or a run folder that holds one.")]


def register(app: typer.Typer) -> None:
    app.command("show")(_show)
    app.command("apply")(_apply)


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


def _apply(
    edit: EditFile,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The base that the Edit was made for: a folder, a Hub id, or `demo`.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the edited checkpoint.")],
    strength: Annotated[float, typer.Option(help="Times the Edit's own strengths.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Bake an Edit into a copy of its base, shard by shard; print the coverage receipt."""
    from vectomy.apply import bake
    from vectomy.demo import demo_folder
    from vectomy.model import fetch

    source = demo_folder(bars) if model == "demo" else fetch(model)
    receipt = bake(_load(edit) * strength, source, out, progress=bars)
    if as_json:
        typer.echo(json.dumps(receipt.to_json(), indent=2))
        return
    lines = [
        f"{len(receipt.edited)} tensors edited ({receipt.parameters:,} parameters), {len(receipt.left)} writers left"
    ]
    lines += [f"  left {name}: {reason}" for name, reason in receipt.left]
    typer.echo("\n".join([*lines, *receipt.notes, f"written to {out}"]))
