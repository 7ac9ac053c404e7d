"""`vectomy apply EDIT MODEL`: writes an Edit into a copy of its base, or as an adapter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from vectomy.cli.help import MAKE, SectionedCommand
from vectomy.cli.options import unpack
from vectomy.cli.progress_bars import bars
from vectomy.cli.vocabulary import (
    AsJson,
    DryRun,
    Edit,
    Model,
    ThreadCount,
    TrustRemoteCode,
    base_option,
    option,
    out_option,
    strength_option,
)
from vectomy.core.choices import ExportFormat, Quantization
from vectomy.core.config import OUTPUT

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("apply", cls=SectionedCommand, rich_help_panel=MAKE)(_apply)


@dataclass(frozen=True)
class ApplyOptions:
    """What the command takes."""

    edit: Edit
    model: Model
    out: Annotated[
        Path, out_option("PATH", "a new folder for a checkpoint or a PEFT adapter, a new file for GGUF.")
    ]
    strength: Annotated[float, strength_option("multiplies the Edit's own strengths.")] = 1.0
    form: Annotated[
        ExportFormat | None,
        option(
            "--as",
            help="Format of the result: the edited checkpoint, a PEFT adapter of the exact rank, a GGUF file "
            "(of one, in its own types), an adapter for llama.cpp, or (of added vectors alone) a control "
            "vector for it. [default: checkpoint; gguf if MODEL is a GGUF file]",
            panel=OUTPUT,
        ),
    ] = None
    quant: Annotated[
        Quantization | None,
        option("--quant", help="Types of a GGUF file made from a folder. [default: f16]", panel=OUTPUT),
    ] = None
    to: Annotated[
        Literal["lmstudio", "ollama"] | None,
        option("--to", help="Put the GGUF file where this program finds it, too.", panel=OUTPUT),
    ] = None
    overwrite: Annotated[
        bool,
        option(
            "--overwrite",
            help="Replace finished results of other settings: with --to ollama, its model of the same name.",
            panel=OUTPUT,
        ),
    ] = False
    base: Annotated[str | None, base_option("needed for a GGUF file that the Edit was not made from.")] = None
    link: Annotated[
        bool,
        option(
            "--link/--no-link",
            help="Hard-link shards that the edit does not touch instead of copying them.",
            panel=OUTPUT,
        ),
    ] = False
    verified: Annotated[
        bool,
        option(
            "--verify/--no-verify",
            help="Run the edited checkpoint and measure its residual stream; hash the written tensors.",
            panel=OUTPUT,
        ),
    ] = True
    threads: ThreadCount = "auto"
    trust_remote_code: TrustRemoteCode = False
    dry_run: DryRun = False
    as_json: AsJson = False


@unpack(ApplyOptions)
def _apply(options: ApplyOptions) -> None:
    """Write an Edit into a copy of its base, or as an adapter. Prints the receipt: every weight
    that was edited or left alone. Exit status 1 if a written weight is NaN or infinite.
    """
    from vectomy.checkpoint.gguf import check_quantizer, is_gguf
    from vectomy.cli.tables.receipt_table import print_receipt
    from vectomy.edits.export.gguf_convert import converter
    from vectomy.workflows.named_model import open_edit
    from vectomy.workflows.needed_packages import list_missing_for_export
    from vectomy.workflows.place_gguf import check_ollama_name
    from vectomy.workflows.preflight import refuse
    from vectomy.workflows.write_export import write_export

    form = options.form or ("gguf" if is_gguf(options.model) else "checkpoint")
    in_place = form == "gguf" and is_gguf(options.model)
    _check_options(in_place, form, options.quant, options.base, options.to)
    if options.to == "ollama" and not options.overwrite:
        check_ollama_name(options.out)
    refuse(*list_missing_for_export(form, options.model))
    if form == "gguf" and not in_place:
        converter()
        check_quantizer(options.quant or "f16")
    chosen = open_edit(options.edit) * options.strength
    if options.dry_run:
        from vectomy.cli.tables.preview_table import print_preview
        from vectomy.workflows.job_preview import preview_export

        preview = preview_export(
            chosen,
            options.edit,
            options.model,
            options.out,
            form,
            trust_remote_code=options.trust_remote_code,
        )
        print_preview(preview, options.as_json)
        return

    receipt = write_export(
        chosen,
        options.model,
        options.out,
        form,
        base=options.base,
        quant=options.quant,
        link_untouched=options.link,
        verified=options.verified,
        trust_remote_code=options.trust_remote_code,
        progress=bars,
    )
    if options.as_json:
        typer.echo(json.dumps(receipt.to_json(), indent=2))
    else:
        print_receipt(receipt)
        typer.echo(f"written to {options.out}")
    if receipt.status == "not_carried":
        raise typer.Exit(1)
    # A program gets no file that is not the edit.
    if form == "gguf":
        typer.echo("\n".join(_place(options.out, options.to, options.overwrite)), err=options.as_json)


def _place(out: Path, to: Literal["lmstudio", "ollama"] | None, overwrite: bool) -> list[str]:
    """The Modelfile beside a GGUF file, and the file where a program finds it."""
    from vectomy.workflows.place_gguf import place_gguf, write_modelfile

    modelfile = write_modelfile(out)
    lines = [f"for Ollama: {modelfile}"]
    return lines if to is None else [*lines, place_gguf(out, to, overwrite=overwrite)]


def _check_options(
    in_place: bool, form: ExportFormat, quant: str | None, base: str | None, to: str | None
) -> None:
    from vectomy.core.errors import UsageError

    if quant is not None and (in_place or form != "gguf"):
        raise UsageError("--quant needs --as gguf and a model folder; a GGUF file is edited in its own types")
    if base is not None and not in_place:
        raise UsageError("--base is for a GGUF file as MODEL; any other MODEL is the base itself")
    if to is not None and form != "gguf":
        raise UsageError(f"--to {to} takes a whole GGUF file; add --as gguf")
