"""What `--dry-run` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from vectomy.cli.terminal import open_console
from vectomy.core.byte_count import write_bytes

if TYPE_CHECKING:
    from vectomy.workflows.job_preview import JobPreview

__all__ = ["print_preview"]


def print_preview(preview: JobPreview, as_json: bool) -> None:
    """What would be read and written; nothing was changed."""
    if as_json:
        typer.echo(json.dumps(preview.to_json(), indent=2, ensure_ascii=False))
        return
    lines = [f"reads    {item}" for item in preview.reads]
    for number, stage in enumerate(preview.stages, 1):
        state = "done before" if stage.done else f"writes {', '.join(stage.writes)}"
        lines.append(f"stage {number}  {stage.name}: {state}")
    written, beside = preview.written_bytes, preview.beside_bytes
    what = "of weights" if beside is None else "for the edited checkpoint"
    size = "" if written is None else f", {write_bytes(written + (beside or 0))} {what}"
    free = "" if preview.free_bytes is None else f" ({write_bytes(preview.free_bytes)} are free)"
    state = "which exists" if preview.exists else "new"
    lines.append(f"into     {preview.out}, {state}{size}{free}")
    if preview.how is not None:
        lines.append(f"how      {preview.how}")
    lines += [f"note     {note}" for note in preview.notes]
    lines.append("nothing was changed (--dry-run)")
    open_console().print("\n".join(lines), highlight=False, soft_wrap=True)
