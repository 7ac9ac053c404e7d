"""The verdict of a comparison in a sentence, and what tells a quantised copy."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.comparison.matrix_pairs import MatrixPair
from vectomy.comparison.outcome import Comparison

__all__ = ["COARSE", "levels", "summarize"]

# Neighbouring elements among which equal values are counted. B's values lie on a coarser grid than
# A's if fewer than this share of the distinct ones are left, as in a quantised and dequantised
# copy.
RUN = 64
COARSE = 0.93
# A rank is low if it is at most this part of the width.
LOW = 8


def levels(piece: MatrixPair) -> tuple[int, int]:
    """Distinct numbers among neighbours in A and B, of one block."""
    a, b = next(piece.blocks())
    return _distinct(a), _distinct(b)


def _distinct(block: Float[Tensor, "m d_model"]) -> int:
    """Distinct numbers in runs along the inputs, or along the vector where there are few inputs."""
    rows = block.T if len(block) >= 32 else block
    runs = (
        rows[:, : RUN * max(1, rows.shape[1] // RUN)]
        .unflatten(1, (-1, min(RUN, rows.shape[1])))
        .flatten(0, 1)
    )
    ordered = runs.sort(dim=1).values
    return int((ordered[:, 1:] != ordered[:, :-1]).sum()) + len(ordered)


def summarize(comparison: Comparison, coarser: bool) -> str:
    if comparison.verdict == "identical":
        return "identical: every tensor holds the same values" + (
            ", up to the precision they are stored in"
            if any("rounding" in note for note in comparison.notes)
            else ""
        )
    if comparison.edit is not None:
        return _edited(comparison)
    return _other(comparison, coarser)


def _edited(comparison: Comparison) -> str:
    assert comparison.edit is not None
    operations = comparison.edit.operations
    strengths = torch.cat([op.strengths for op in operations])
    low, high = float(strengths.min()), float(strengths.max())
    norms = sorted({op.norm for op in operations})
    each = max(len(op.basis) for op in operations)
    what = f"{len(comparison.directions)} direction{'s' * (len(comparison.directions) != 1)}"
    if len(comparison.directions) < each or any(
        not _within(op.basis, comparison.directions) for op in operations
    ):
        what = f"{each} direction{'s' * (each != 1)} a writer, not the same in all of them,"
    text = (
        f"a directional edit of {what} in {len(operations)} writers, strengths {low:.2f} to {high:.2f}, "
        f"norm mode {' and '.join(norms)}"
    )
    added = sum(op.addition is not None for op in operations)
    text += f", with a vector added in {added}" if added else ""
    if comparison.verdict == "directional":
        return text
    rest = [row for row in comparison.differing if not row.explained]
    more = (
        f"{len(rest)} tensors differ in another way"
        if rest
        else "the two do not hold the same tensors or heads"
    )
    return f"in part {text}; {more}"


def _within(rows: Float[Tensor, "k d_model"], span: Float[Tensor, "n d_model"]) -> bool:
    return bool(((rows @ span.T).square().sum(1) > 0.999).all())


def _other(comparison: Comparison, coarser: bool) -> str:
    if not comparison.writers:
        if not comparison.differing:
            return "something else: all shared tensors are equal, but each holds tensors that the other lacks"
        return "something else: nothing that writes to the stream differs, other tensors do"
    ranks = [row.rank for row in comparison.writers]
    share = (
        f"the leading direction of all writers explains {comparison.explained[0]:.0%} of the difference"
        if comparison.explained
        else ""
    )
    if coarser:
        return f"something else: B's values lie on a coarser grid than A's, as if quantised and back; {share}"
    low = [row.rank for row in comparison.writers if row.rank is not None and row.rank <= row.width // LOW]
    if len(low) * 2 > len(ranks):
        span = f"{min(low)}" if min(low) == max(low) else f"{min(low)} to {max(low)}"
        return (
            f"something else: {len(low)} of {len(ranks)} writers changed by matrices of rank {span} that "
            f"remove no directions, such as a merged LoRA; {share}"
        )
    return f"something else: changes of full rank in {len(ranks)} writers, such as a fine-tune; {share}"
