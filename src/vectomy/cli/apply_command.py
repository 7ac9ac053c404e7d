"""`vectomy apply EDIT MODEL`: writes an Edit into a copy of its base, or as an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vectomy.cli.help import SectionedCommand
from vectomy.cli.progress_bars import bars
from vectomy.cli.vocabulary import AsJson, Edit, Model, base_option, option, out_option, strength_option
from vectomy.core.config import OUTPUT

if TYPE_CHECKING:
    from vectomy.edits.edit import Edit as LoadedEdit
    from vectomy.edits.export import Receipt
    from vectomy.hub.provenance import Form as Written

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("apply", cls=SectionedCommand)(_apply)


ExportForm = Literal["checkpoint", "lora", "gguf", "gguf-lora"]
Quantization = Literal["f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


def _apply(
    edit: Edit,
    model: Model,
    out: Annotated[
        Path, out_option("PATH", "a new folder for a checkpoint or a PEFT adapter, a new file for GGUF.")
    ],
    strength: Annotated[float, strength_option("multiplies the Edit's own strengths.")] = 1.0,
    form: Annotated[
        ExportForm | None,
        option(
            "--as",
            help="Form of the result: the edited checkpoint (default), a PEFT adapter of the exact rank, a "
            "GGUF file (default if MODEL is one; its types are kept), or an adapter for llama.cpp.",
            panel=OUTPUT,
        ),
    ] = None,
    quant: Annotated[
        Quantization | None,
        option("--quant", help="Types of a GGUF file made from a folder; f16 if not given.", panel=OUTPUT),
    ] = None,
    base: Annotated[
        str | None, base_option("needed for a GGUF file that the Edit was not made from.")
    ] = None,
    link: Annotated[
        bool,
        option(
            "--link/--no-link",
            help="Hard-link shards that the edit does not touch instead of copying them.",
            panel=OUTPUT,
        ),
    ] = False,
    verified: Annotated[
        bool,
        option(
            "--verify/--no-verify",
            help="Run the edited checkpoint and measure its residual stream; hash the written tensors.",
            panel=OUTPUT,
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write an Edit into a copy of its base, or as an adapter, and print the coverage receipt; exit
    status 1 if what was written holds NaN or infinite values.
    """
    from vectomy.checkpoint.gguf import is_gguf
    from vectomy.cli.tables.receipt_table import print_receipt
    from vectomy.metrics.verify import with_measurement
    from vectomy.workflows.named_model import open_base, open_edit

    chosen = open_edit(edit) * strength
    in_place = is_gguf(model) and form in (None, "gguf")
    _check_options(in_place, form, quant, base)

    def measure(receipt: Receipt, folder: Path) -> Receipt:
        return with_measurement(receipt, folder, chosen, progress=bars) if verified else receipt

    if in_place:
        from vectomy.edits.export.gguf_in_place import edit_gguf

        unedited = None if base is None else open_base(base, bars)
        receipt = edit_gguf(chosen, model, out, base=unedited, progress=bars)
    elif form == "gguf":
        from vectomy.edits.export.gguf_convert import bake_gguf

        receipt = bake_gguf(
            chosen, open_base(model, bars), out, quant=quant or "f16", look=measure, progress=bars
        )
    elif form == "gguf-lora":
        from vectomy.edits.export.gguf_adapter import write_gguf_lora

        receipt = write_gguf_lora(chosen, open_base(model, bars), out, progress=bars)
    elif form == "lora":
        from vectomy.edits.export.peft_adapter import write_lora

        source = open_base(model, bars)
        receipt = write_lora(chosen, source, out, progress=bars)
        _record(out, "adapter", chosen, model, source)
    else:
        from vectomy.edits.export import bake

        source = open_base(model, bars)
        receipt = measure(bake(chosen, source, out, link_untouched=link, progress=bars), out)
        _record(out, "checkpoint", chosen, model, source, hashed=verified)
    if as_json:
        typer.echo(json.dumps(receipt.to_json(), indent=2))
    else:
        print_receipt(receipt)
        typer.echo(f"written to {out}")
    if receipt.status == "not_carried":
        raise typer.Exit(1)


def _record(
    out: Path, form: Written, edit: LoadedEdit, model: str, source: Path, hashed: bool = True
) -> None:
    """Write the record of base and Edit next to the result, for `push` and `reproduce`."""
    from vectomy.core.versions import versions
    from vectomy.hub.provenance import write_record

    write_record(
        out, form, edit, model=model, source=source, versions=versions(), hashed=hashed, progress=bars
    )


def _check_options(in_place: bool, form: ExportForm | None, quant: str | None, base: str | None) -> None:
    from vectomy.core.errors import UsageError

    if quant is not None and (in_place or form != "gguf"):
        raise UsageError("--quant needs --as gguf and a model folder; a GGUF file is edited in its own types")
    if base is not None and not in_place:
        raise UsageError("--base is for a GGUF file as MODEL; any other MODEL is the base itself")
