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
from vectomy.cli.options import AsJson, Model
from vectomy.cli.progress_bars import bars

if TYPE_CHECKING:
    from vectomy.edits.edit import Edit
    from vectomy.edits.export import Receipt
    from vectomy.hub.provenance import Form as Written

__all__ = ["register"]

EditFile = Annotated[
    Path, typer.Argument(metavar="EDIT", help="An Edit file, or a run folder that holds one.")
]


def register(app: typer.Typer) -> None:
    app.command("show")(_show)
    app.command("apply")(_apply)
    making = typer.Typer(no_args_is_help=True, help="Make an Edit by hand.")
    making.command("new")(_new)
    app.add_typer(making, name="edit")


def _load(path: Path) -> Edit:
    from vectomy.edits.edit import Edit

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
                {
                    "base": vars(loaded.base),
                    "about": loaded.about,
                    "sha256": loaded.sha256,
                    "operations": rows,
                },
                indent=2,
            )
        )
        return
    base = loaded.base
    table = Table(
        title=f"{loaded.about.get('behaviour', 'an edit')} of {base.name or base.model_type}",
        title_justify="left",
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
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


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
    from vectomy.core.errors import EditError
    from vectomy.edits.edit import Edit
    from vectomy.search.estimators import direction_from

    if out.is_dir():
        raise EditError(f"{out} is a folder; give a file name for the Edit (edit.safetensors)")
    source = Checkpoint.open(source_of(model))
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


class ExportForm(StrEnum):
    checkpoint = "checkpoint"
    lora = "lora"
    gguf = "gguf"
    gguf_lora = "gguf-lora"


def _apply(
    edit: EditFile,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The base that the Edit was made for: a folder, a Hub id, `demo`, or a GGUF file.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH", help="New folder for a checkpoint or a PEFT adapter, new file for GGUF."
        ),
    ],
    strength: Annotated[float, typer.Option(help="Times the Edit's own strengths.")] = 1.0,
    form: Annotated[
        ExportForm | None,
        typer.Option(
            "--as",
            help="The whole edited checkpoint (default), a PEFT adapter of the exact rank, a GGUF file (default for a GGUF file, "
            "which is edited as it is), or an adapter for llama.cpp.",
            show_default=False,
        ),
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option(
            help="gguf from a folder: f16 (default), bf16, f32, q8_0, q5_1, q5_0, q4_1 or q4_0.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that the Edit was made for, to which a GGUF file that it was not made from is held.",
        ),
    ] = None,
    link: Annotated[
        bool, typer.Option(help="Hard-link shards that the edit does not touch instead of copying them.")
    ] = False,
    verified: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Run the edited checkpoint and measure its stream; hash what was written.",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write an Edit into a copy of its base, shard by shard, or as an adapter; print the coverage
    receipt.
    """
    from vectomy.checkpoint.gguf import is_gguf
    from vectomy.metrics.verify import with_measurement

    chosen = _load(edit) * strength
    as_it_is = is_gguf(model) and form in (None, ExportForm.gguf)
    _check_options(as_it_is, form, quant, base)

    def look(receipt: Receipt, folder: Path) -> Receipt:
        return with_measurement(receipt, folder, chosen, progress=bars) if verified else receipt

    if as_it_is:
        from vectomy.edits.export.gguf_in_place import edit_gguf

        held = None if base is None else source_of(base)
        receipt = edit_gguf(chosen, model, out, base=held, progress=bars)
    elif form is ExportForm.gguf:
        from vectomy.edits.export.gguf_convert import bake_gguf

        receipt = bake_gguf(chosen, source_of(model), out, quant=quant or "f16", look=look, progress=bars)
    elif form is ExportForm.gguf_lora:
        from vectomy.edits.export.gguf_adapter import write_gguf_lora

        receipt = write_gguf_lora(chosen, source_of(model), out, progress=bars)
    elif form is ExportForm.lora:
        from vectomy.edits.export.peft_adapter import write_lora

        source = source_of(model)
        receipt = write_lora(chosen, source, out, progress=bars)
        _record(out, "adapter", chosen, model, source)
    else:
        from vectomy.edits.export import bake

        source = source_of(model)
        receipt = look(bake(chosen, source, out, link_untouched=link, progress=bars), out)
        _record(out, "checkpoint", chosen, model, source, hashed=verified)
    print_receipt(receipt, as_json)
    if not as_json:
        typer.echo(f"written to {out}")


def _record(out: Path, form: Written, edit: Edit, model: str, source: Path, hashed: bool = True) -> None:
    """Beside what was written: of which base and which Edit it is, for `push` and `reproduce`."""
    from vectomy.core.versions import versions
    from vectomy.hub.provenance import write_record

    write_record(
        out, form, edit, model=model, source=source, versions=versions(), hashed=hashed, progress=bars
    )


def _check_options(as_it_is: bool, form: ExportForm | None, quant: str | None, base: str | None) -> None:
    from vectomy.core.errors import UsageError

    if quant is not None and (as_it_is or form is not ExportForm.gguf):
        raise UsageError(
            "--quant goes with --as gguf and a model folder; a GGUF file is edited in its own types"
        )
    if base is not None and not as_it_is:
        raise UsageError("--base goes with a GGUF file as MODEL")
