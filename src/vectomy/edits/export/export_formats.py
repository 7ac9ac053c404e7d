"""The formats an Edit is exported to. A new format is a module of its own, a line here, and its
name in `core.choices.ExportFormat`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vectomy.checkpoint.gguf import is_gguf
from vectomy.core.choices import ExportFormat
from vectomy.core.progress import Progress, silent
from vectomy.edits.edit import Edit
from vectomy.edits.export.bake import bake
from vectomy.edits.export.control_vector import write_control_vector
from vectomy.edits.export.gguf_adapter import write_gguf_lora
from vectomy.edits.export.gguf_convert import bake_gguf
from vectomy.edits.export.gguf_in_place import edit_gguf
from vectomy.edits.export.peft_adapter import write_lora
from vectomy.edits.export.receipt import Receipt

__all__ = ["EXPORTS", "Export", "ExportRequest"]


@dataclass(frozen=True)
class ExportRequest:
    """An Edit, the model folder or GGUF file it is written into, and the options of the formats."""

    edit: Edit
    model: Path
    out: Path
    base: Path | None = None
    """The Edit's base, if `model` is a GGUF file that the Edit was not made from."""
    quant: str | None = None
    link_untouched: bool = False
    measure: Callable[[Receipt, Path], Receipt] = lambda receipt, folder: receipt
    """Adds to the receipt what is measured on a baked folder."""
    progress: Progress = silent


@dataclass(frozen=True)
class Export:
    write: Callable[[ExportRequest], Receipt]
    recorded_as: Literal["checkpoint", "adapter"] | None = None
    """The form named in the result's record, for `push` and `reproduce`; None: no record."""


def _write_checkpoint(request: ExportRequest) -> Receipt:
    receipt = bake(
        request.edit,
        request.model,
        request.out,
        link_untouched=request.link_untouched,
        progress=request.progress,
    )
    return request.measure(receipt, request.out)


def _write_lora(request: ExportRequest) -> Receipt:
    return write_lora(request.edit, request.model, request.out, progress=request.progress)


def _write_gguf(request: ExportRequest) -> Receipt:
    """A GGUF file is edited in its own types; a folder is baked and converted."""
    if is_gguf(request.model):
        return edit_gguf(
            request.edit, request.model, request.out, base=request.base, progress=request.progress
        )
    return bake_gguf(
        request.edit,
        request.model,
        request.out,
        quant=request.quant or "f16",
        look=request.measure,
        progress=request.progress,
    )


def _write_gguf_lora(request: ExportRequest) -> Receipt:
    return write_gguf_lora(request.edit, request.model, request.out, progress=request.progress)


def _write_control_vector(request: ExportRequest) -> Receipt:
    return write_control_vector(request.edit, request.model, request.out, progress=request.progress)


EXPORTS: dict[ExportFormat, Export] = {
    "checkpoint": Export(_write_checkpoint, "checkpoint"),
    "lora": Export(_write_lora, "adapter"),
    "gguf": Export(_write_gguf),
    "gguf-lora": Export(_write_gguf_lora),
    "control-vector": Export(_write_control_vector),
}
