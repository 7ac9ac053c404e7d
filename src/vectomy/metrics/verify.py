"""Prove by measurement what an edit did to a checkpoint: ours or a stranger's.

Two measurements. On the weights: what each writer still holds of the removed directions, or, with
the base at hand, whether it is what the edit makes of the base's. On the running model: how much of
the residual stream lies along the directions, at every layer; the blocks are read one after the
other, so the model may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import check_covered
from vectomy.checkpoint import Checkpoint, ModelSource, architecture_in, fingerprint
from vectomy.core.errors import ActivationError, FingerprintError, VectomyError
from vectomy.core.progress import Progress, automatic, silent
from vectomy.core.quoted_error import quote_error
from vectomy.edits.edit import Edit
from vectomy.edits.export.receipt import Receipt, Status
from vectomy.edits.operation import shape_of
from vectomy.metrics.direction_share import projections
from vectomy.metrics.known_base import find_base
from vectomy.metrics.weight_verdicts import (
    Carries,
    WeightVerdict,
    changes_samples,
    judge_weights,
    non_finite_tensors,
)

__all__ = ["removed_directions", "verify", "with_measurement"]


def verify(
    checkpoint: ModelSource,
    edit: Edit | str | Path,
    *,
    base: ModelSource | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    run: bool = True,
    seed: int = 0,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = automatic,
) -> Receipt:
    """Measure whether a checkpoint carries an Edit; no record is trusted.

    The `status` of the receipt is `carried`, `not_carried` or `unknown`, and `reason` says why.
    Without the base only a removal of strength 1 can be seen in the weights; any other edit is
    `unknown`.

    Args:
        base: the unedited model. None: the base that the Edit names, if strengths need it and it is
            on this machine.
        tokens: prompts to run, as token ids; None: 8 random texts of 48 tokens, from `seed`.
        run: also run the model in float32 and measure its residual stream. An error in this part
            becomes a note of the receipt.
        trust_remote_code: run Python code that the folder contains.

    Raises:
        FingerprintError: the shape of the checkpoint, or the weights of `base`, differ from the
            edit's base.
        CheckpointError, ArchitectureError: a model cannot be opened.
    """
    edit = Edit.of(edit)
    opened = Checkpoint.of(checkpoint)
    arch = architecture_in(opened)
    check_covered(arch)
    if not edit.base.same_shape(arch):
        raise FingerprintError(f"the edit is for {edit.base}; {opened.path} is {shape_of(arch)}")
    source = None if base is None else Checkpoint.of(base)
    if source is not None:
        edit.check_base(source)
    verdicts = judge_weights(opened, edit, arch, source)
    if source is None and any(verdict.carries == "unknown" for verdict in verdicts):
        source = find_base(edit.base, opened.path)
        if source is not None:
            verdicts = judge_weights(opened, edit, arch, source)
    is_base = source is None and fingerprint(opened) == edit.base.fingerprint
    status, reason = _summarise(verdicts, source, is_base and changes_samples(opened, edit))
    if is_base and status == "carried":
        status, reason = "unknown", "its fingerprint is that of the unedited base; give the base (--base)"
    reasons = {
        verdict.name: verdict.reason for verdict in verdicts if verdict.carries in ("not_carried", "unknown")
    }
    receipt = Receipt.of(opened, arch, [verdict.name for verdict in verdicts if verdict.name not in reasons])
    names = {name for name, _ in receipt.left}
    missing = [(name, why) for name, why in reasons.items() if name not in names]
    receipt = replace(
        receipt,
        left=(*((name, reasons.get(name, why)) for name, why in receipt.left), *missing),
        failures=tuple(verdict.name for verdict in verdicts if verdict.carries == "not_carried"),
        status=status,
        reason=reason,
    ).with_non_finite([name for name, _ in non_finite_tensors(opened)])
    if not run:
        return receipt
    return with_measurement(
        receipt,
        opened,
        edit,
        tokens=tokens,
        seed=seed,
        device=device,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )


def _summarise(
    verdicts: Sequence[WeightVerdict], base: Checkpoint | None, is_base: bool
) -> tuple[Status, str]:
    """Whether all tensors together carry the edit, and why.

    Args:
        is_base: the fingerprint shows that the checkpoint is the unedited base.
    """

    def of(carries: Carries) -> list[WeightVerdict]:
        return [verdict for verdict in verdicts if verdict.carries == carries]

    failed, unknown, carried = of("not_carried"), of("unknown"), of("carried")
    if failed:
        first = failed[0]
        return (
            "not_carried",
            f"{len(failed)} of {len(verdicts)} tensors do not carry the edit: '{first.name}' {first.reason}",
        )
    if is_base:
        return "not_carried", "it has the fingerprint of the unedited base, which the edit would change"
    if unknown:
        first = unknown[0]
        return "unknown", f"{len(unknown)} of {len(verdicts)} tensors cannot be judged: {first.reason}"
    if not carried:
        return "unknown", "the edit changes no stored value of this model, so that nothing can show it"
    against = "nothing is left along its directions" if base is None else f"as baked from {base.path.name}"
    return "carried", f"all {len(verdicts)} tensors that the edit names carry it: {against}"


def with_measurement(
    receipt: Receipt,
    checkpoint: ModelSource,
    edit: Edit,
    *,
    tokens: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> Receipt:
    """The receipt of a checkpoint with the projections of its running stream, or with a note that
    they were not measured and why. A stream with NaN or infinite values fails the receipt.
    """
    basis = removed_directions(edit)
    if not len(basis):
        return receipt
    try:
        shares, how = projections(
            checkpoint,
            basis,
            tokens=tokens,
            seed=seed,
            device=device,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    except ActivationError as error:
        reason = f"{receipt.reason}; {error}" if receipt.status == "not_carried" else str(error)
        return replace(receipt, status="not_carried", reason=reason)
    except Exception as error:  # noqa: BLE001 (a failed measurement is a note)
        # What is measured is finished and written; no error of the measurement may take it back.
        kind = "" if isinstance(error, VectomyError) else f"{type(error).__name__}: "
        return replace(
            receipt, notes=(*receipt.notes, f"the stream was not measured: {kind}{quote_error(error, 300)}")
        )
    return replace(receipt, projection=tuple(shares), how=how)


def removed_directions(edit: Edit) -> Float[Tensor, "n d_model"]:
    """The distinct directions that the edit takes something of, over all writers."""
    rows: dict[bytes, Tensor] = {}
    for operation in edit.operations:
        for row, strength in zip(operation.basis, operation.strengths, strict=True):
            if strength:
                rows.setdefault(row.numpy().tobytes(), row)
    return torch.stack(list(rows.values())) if rows else torch.empty(0, edit.base.d_model)
