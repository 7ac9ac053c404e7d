"""What training put back along the removed directions, measured on the trained change and on the
healed checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vectomy.checkpoint import Checkpoint, architecture_in, read_tensor
from vectomy.core.config import Runtime
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress
from vectomy.edits.edit import Edit
from vectomy.healing.job import WEIGHTS
from vectomy.healing.merging import read_projected_lora
from vectomy.healing.projection import share_along
from vectomy.metrics.verify import verify
from vectomy.workflows.heal.heal_inputs import Inputs, compute_protected_directions

__all__ = ["measure_receipt", "removes_fully"]


def measure_receipt(
    inputs: Inputs,
    trained: Path,
    edited: Path,
    healed: Path,
    protected_directions: Mapping[str, Tensor],
    runtime: Runtime,
    progress: Progress,
) -> JsonObject:
    """The receipt of a healing, as receipt.json has it.

    `learned_along` is the largest share, over the writers that the Edit names, of the trained
    change that lies along the removed directions (a random change has sqrt(k / d_model)). For an
    Edit that removes its directions fully, `verified` is `verify`'s receipt of the healed
    checkpoint: weights and running stream.
    """
    edit = inputs.edit
    directions = {} if edit is None else compute_protected_directions(edit, inputs.base)
    shares = _measure_shares(trained, edited, healed, directions, protected_directions)
    result: JsonObject = {
        "writers": len(directions),
        "projected": bool(protected_directions),
        "learned_along": max(shares.values(), default=None),
        "learned_in": len(shares),
        "verified": None,
    }
    if edit is not None and removes_fully(edit):
        receipt = verify(
            healed,
            edit,
            device=runtime.device,
            trust_remote_code=runtime.trust_remote_code,
            progress=progress,
        )
        result["verified"] = {
            "carried": len(receipt.edited),
            "failures": list(receipt.failures),
            "max_projection": receipt.max_projection,
            "how": receipt.how,
            "status": receipt.status,
            "reason": receipt.reason,
        }
    return result


def removes_fully(edit: Edit) -> bool:
    """Whether the Edit removes all of its directions with strength 1, so that a checkpoint can be
    verified without the base.
    """
    return all(
        op.norm != "row" and op.addition is None and bool((op.strengths == 1).all())
        for op in edit.operations
        if not op.is_noop
    )


def _measure_shares(
    trained: Path,
    edited: Path,
    healed: Path,
    directions: Mapping[str, Tensor],
    protected_directions: Mapping[str, Tensor],
) -> dict[str, float]:
    """By module, the share of the trained change that lies along the removed directions."""
    if trained.name != WEIGHTS:
        updates = read_projected_lora(trained, protected_directions)
        return {
            module: share_along(updates[module].matrix(), rows)
            for module, rows in directions.items()
            if module in updates
        }
    before, after = Checkpoint.open(edited), Checkpoint.open(healed)
    shares: dict[str, float] = {}
    for writer in architecture_in(before).writers:
        if writer.module in directions and len(writer.weights) == 1:
            ref = writer.weights[0]
            change = read_tensor(after, ref.name).float() - read_tensor(before, ref.name).float()
            if change.any() and change.ndim == 2:
                shares[writer.module] = share_along(change.movedim(ref.axis, 0), directions[writer.module])
    return shares
