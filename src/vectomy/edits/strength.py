"""The strengths of a whole Edit in short, for summaries and cards."""

from __future__ import annotations

import torch

from vectomy.core.json_value import JsonObject
from vectomy.edits.edit import Edit

__all__ = ["strength_of"]


def strength_of(edit: Edit) -> float | JsonObject | None:
    """The strength of the whole edit; of one with several their range, in how many writers, and
    along how many directions each, the same in all of them or not.
    """
    found = [strength for op in edit.operations for strength in op.strengths.tolist()]
    if len(set(found)) < 2:
        return found[0] if found else None
    return {
        "lowest": min(found),
        "highest": max(found),
        "writers": len(edit.operations),
        "directions": max(len(op.basis) for op in edit.operations),
        "shared": all(torch.equal(op.basis, edit.operations[0].basis) for op in edit.operations),
    }
