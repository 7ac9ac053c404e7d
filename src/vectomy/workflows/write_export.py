"""An Edit written into a model, in one of the export formats, with its record and its receipt."""

from __future__ import annotations

from pathlib import Path

from vectomy.checkpoint.gguf import is_gguf
from vectomy.core.choices import ExportFormat
from vectomy.core.progress import Progress, silent
from vectomy.core.versions import versions
from vectomy.edits.edit import Edit
from vectomy.edits.export import EXPORTS, ExportRequest, Receipt
from vectomy.hub.provenance import write_record
from vectomy.metrics.verify import with_measurement
from vectomy.workflows.named_model import open_base

__all__ = ["write_export"]


def write_export(
    edit: Edit,
    model: str,
    out: Path,
    form: ExportFormat = "checkpoint",
    *,
    base: str | None = None,
    quant: str | None = None,
    link_untouched: bool = False,
    verified: bool = True,
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> Receipt:
    """Write `edit` into `model` (a folder, a Hub id, a GGUF file or `demo`) as the new `out`.

    Args:
        base: the Edit's base, for a GGUF file that the Edit was not made from.
        verified: run the edited checkpoint and measure its residual stream; hash the tensors.

    Raises:
        VectomyError: as the export of the format does.
    """

    def measure(receipt: Receipt, folder: Path) -> Receipt:
        if not verified:
            return receipt
        return with_measurement(receipt, folder, edit, trust_remote_code=trust_remote_code, progress=progress)

    in_place = form == "gguf" and is_gguf(model)
    source = Path(model) if in_place else open_base(model, progress, trust_remote_code=trust_remote_code)
    unedited = None if base is None else open_base(base, progress, trust_remote_code=trust_remote_code)
    export = EXPORTS[form]
    receipt = export.write(
        ExportRequest(
            edit,
            source,
            out,
            unedited,
            quant,
            link_untouched=link_untouched,
            measure=measure,
            progress=progress,
        )
    )
    if export.recorded_as:
        write_record(
            out,
            export.recorded_as,
            edit,
            model=model,
            source=source,
            versions=versions(),
            hashed=verified or export.recorded_as == "adapter",
            progress=progress,
        )
    return receipt
