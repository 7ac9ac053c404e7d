"""What healing left of the removed directions, measured on the learned change and on the healed
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vectomy.checkpoint import Checkpoint, architecture_in, read_tensor
from vectomy.core.progress import Progress
from vectomy.edits.edit import Edit
from vectomy.healing.merging import updates_of
from vectomy.healing.projection import along
from vectomy.healing.training import WEIGHTS
from vectomy.metrics.verify import verify
from vectomy.workflows.heal.heal_inputs import Inputs, rows_kept_out

__all__ = ["receipt_of", "wholly"]


def receipt_of(
    inputs: Inputs,
    learned: Path,
    edited: Path,
    healed: Path,
    kept_out: Mapping[str, Tensor],
    progress: Progress,
) -> dict[str, Any]:
    """`learned_along` is the share of the learned change that lies along the removed directions,
    the largest over the writers that the Edit names (a random change has sqrt(k / d_model)). For an
    Edit that removes its directions wholly, `verified` is the receipt of `verify` for the healed
    checkpoint, weights and running stream.
    """
    edit = inputs.edit
    rows = {} if edit is None else rows_kept_out(edit, inputs.base)
    shares = _shares(learned, edited, healed, rows, kept_out)
    found: dict[str, Any] = {
        "writers": len(rows),
        "projected": bool(kept_out),
        "learned_along": max(shares.values(), default=None),
        "learned_in": len(shares),
        "verified": None,
    }
    if edit is not None and wholly(edit):
        receipt = verify(healed, edit, progress=progress)
        found["verified"] = {
            "carried": len(receipt.edited),
            "failures": list(receipt.failures),
            "max_projection": receipt.max_projection,
            "how": receipt.how,
        }
    return found


def wholly(edit: Edit) -> bool:
    """Whether the Edit removes all of its directions wholly, so that a checkpoint can be verified
    without the base.
    """
    return all(
        op.norm != "row" and op.addition is None and bool((op.strengths == 1).all())
        for op in edit.operations
        if not op.is_noop
    )


def _shares(
    learned: Path, edited: Path, healed: Path, rows: Mapping[str, Tensor], kept_out: Mapping[str, Tensor]
) -> dict[str, float]:
    if learned.name != WEIGHTS:
        updates = updates_of(learned, kept_out)
        return {
            module: along(updates[module][1](), basis) for module, basis in rows.items() if module in updates
        }
    before, after = Checkpoint.open(edited), Checkpoint.open(healed)
    arch = architecture_in(before)
    found: dict[str, float] = {}
    for writer in arch.writers:
        if writer.module in rows and len(writer.weights) == 1:
            stored = writer.weights[0]
            change = read_tensor(after, stored.name).float() - read_tensor(before, stored.name).float()
            if change.any() and change.ndim == 2:
                found[writer.module] = along(change.movedim(stored.axis, 0), rows[writer.module])
    return found
