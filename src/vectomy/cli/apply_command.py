"""`vectomy apply EDIT MODEL`: writes an Edit into a copy of its base, or as an adapter."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vectomy.cli.options import AsJson, Edit
from vectomy.cli.progress_bars import bars

if TYPE_CHECKING:
    from vectomy.edits.edit import Edit as LoadedEdit
    from vectomy.edits.export import Receipt
    from vectomy.hub.provenance import Form as Written

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("apply")(_apply)


class ExportForm(StrEnum):
    checkpoint = "checkpoint"
    lora = "lora"
    gguf = "gguf"
    gguf_lora = "gguf-lora"


def _apply(
    edit: Edit,
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
    from vectomy.cli.tables.receipt_table import print_receipt
    from vectomy.metrics.verify import with_measurement
    from vectomy.workflows.named_model import open_edit, open_model

    chosen = open_edit(edit) * strength
    as_it_is = is_gguf(model) and form in (None, ExportForm.gguf)
    _check_options(as_it_is, form, quant, base)

    def look(receipt: Receipt, folder: Path) -> Receipt:
        return with_measurement(receipt, folder, chosen, progress=bars) if verified else receipt

    if as_it_is:
        from vectomy.edits.export.gguf_in_place import edit_gguf

        held = None if base is None else open_model(base, bars)
        receipt = edit_gguf(chosen, model, out, base=held, progress=bars)
    elif form is ExportForm.gguf:
        from vectomy.edits.export.gguf_convert import bake_gguf

        receipt = bake_gguf(
            chosen, open_model(model, bars), out, quant=quant or "f16", look=look, progress=bars
        )
    elif form is ExportForm.gguf_lora:
        from vectomy.edits.export.gguf_adapter import write_gguf_lora

        receipt = write_gguf_lora(chosen, open_model(model, bars), out, progress=bars)
    elif form is ExportForm.lora:
        from vectomy.edits.export.peft_adapter import write_lora

        source = open_model(model, bars)
        receipt = write_lora(chosen, source, out, progress=bars)
        _record(out, "adapter", chosen, model, source)
    else:
        from vectomy.edits.export import bake

        source = open_model(model, bars)
        receipt = look(bake(chosen, source, out, link_untouched=link, progress=bars), out)
        _record(out, "checkpoint", chosen, model, source, hashed=verified)
    if as_json:
        typer.echo(json.dumps(receipt.to_json(), indent=2))
    else:
        print_receipt(receipt)
        typer.echo(f"written to {out}")


def _record(
    out: Path, form: Written, edit: LoadedEdit, model: str, source: Path, hashed: bool = True
) -> None:
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
