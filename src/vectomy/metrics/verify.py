"""Prove by measurement what an edit did to a checkpoint: ours or a stranger's.

Two measurements. On the weights: what each writer still holds of the removed directions, or, with
the base at hand, whether it is what the edit makes of the base's. On the running model: how much of
the residual stream lies along the directions, at every layer; the blocks are read one after the
other, so the model may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Architecture, TensorRef, Writer, check_covered
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.checkpoint.quantization import decode, locate
from vectomy.checkpoint.reader import read_stored
from vectomy.core.errors import FingerprintError, ModelError
from vectomy.core.progress import Progress, silent
from vectomy.edits.edit import Edit, Operation
from vectomy.edits.export.bake import bake_writer
from vectomy.edits.export.receipt import Receipt
from vectomy.edits.operation import fold_operation, shape_of
from vectomy.hooks.capture import capture
from vectomy.models import ChatModel, load_layerwise, load_model

__all__ = ["projections", "removed_directions", "verify", "with_measurement"]

# A writer with less of the directions than this share of what a random one has is taken to be
# edited. Rounding to bfloat16 leaves some 0.002, to fp8 0.03; an unedited writer has about 1.
GONE = 0.15
# How far stored values may be from what the edit makes of the base's, in units of the stored
# format's rounding.
ROUNDINGS = 4
ROUNDING = {"F64": 1e-12, "F32": 1e-6, "F16": 2**-11, "BF16": 2**-8}
PACKED_ROUNDING = 0.2


def verify(
    checkpoint: str | Path | Checkpoint,
    edit: Edit,
    *,
    base: str | Path | Checkpoint | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    run: bool = True,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> Receipt:
    """The receipt of a checkpoint that is said to be edited: what it touches is measured, not taken
    from a record.

    Args:
        base: the unedited model. Without it a writer can only be judged where the edit removes a
            direction wholly.
        tokens: prompts as token ids to run (else 8 random texts of 48 tokens, from `seed`).
        run: measure the stream of the running model as well, in float32.

    Raises:
        FingerprintError: the checkpoint has another shape than the edit's base, or `base` other
            weights. CheckpointError, ArchitectureError, ModelError: as for loading a model.
    """
    opened = Checkpoint.of(checkpoint)
    arch = architecture_in(opened)
    check_covered(arch)
    if not edit.base.same_shape(arch):
        raise FingerprintError(f"the edit is for {edit.base}; {opened.path} is {shape_of(arch)}")
    source = None if base is None else Checkpoint.of(base)
    if source is not None:
        edit.check_base(source)
    seen = [_judge_writer(opened, source, arch, writer, op) for writer, op in edit.writers(arch)]
    edited = [name for one in seen for name in one.edited]
    receipt = Receipt.of(opened, arch, edited, notes=[note for one in seen for note in one.notes])
    reasons = dict(reason for one in seen for reason in one.left)
    left = tuple((name, reasons.get(name, why)) for name, why in receipt.left)
    receipt = replace(receipt, left=left, failures=tuple(reasons))
    return (
        with_measurement(receipt, opened, edit, tokens=tokens, seed=seed, device=device, progress=progress)
        if run
        else receipt
    )


def with_measurement(
    receipt: Receipt,
    checkpoint: str | Path | Checkpoint,
    edit: Edit,
    *,
    tokens: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> Receipt:
    """The receipt of a checkpoint with the projections of its running stream, or with a note why
    there are none.
    """
    basis = removed_directions(edit)
    if not len(basis):
        return receipt
    try:
        found, how = projections(
            checkpoint, basis, tokens=tokens, seed=seed, device=device, progress=progress
        )
    except ModelError as error:
        return replace(receipt, notes=(*receipt.notes, f"the stream was not measured: {error}"))
    return replace(receipt, projection=tuple(found), how=how)


def removed_directions(edit: Edit) -> Float[Tensor, "n d_model"]:
    """The distinct directions that the edit takes something of, over all writers."""
    rows: dict[bytes, Tensor] = {}
    for operation in edit.operations:
        for row, strength in zip(operation.basis, operation.strengths, strict=True):
            if strength:
                rows.setdefault(row.numpy().tobytes(), row)
    return torch.stack(list(rows.values())) if rows else torch.empty(0, edit.base.d_model)


@torch.inference_mode()
def projections(
    checkpoint: str | Path | Checkpoint,
    basis: Float[Tensor, "n d_model"],
    *,
    tokens: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> tuple[list[float], str]:
    """The largest |r . x| / |x| over directions and tokens, of the stream x that enters the first
    block and leaves each one; float32, block by block. With it, in words, on what it was measured.

    Raises:
        ModelError: the model cannot be run here (packed weights, say).
    """
    opened = Checkpoint.of(checkpoint)
    chat = _chat(opened, device)
    layers = chat.architecture.n_layers
    how = (
        f"{len(tokens)} given prompts, float32"
        if tokens
        else f"8 random texts of 48 tokens (seed {seed}), float32"
    )
    texts = tokens or _random_texts(chat.architecture.vocab, seed)
    largest = torch.zeros(layers + 1)
    batches = list(chat.batches(texts, 4096))
    with (
        progress("measuring", layers * len(texts), "layers of texts") as update,
        chat.iter_layers(batches) as sweeps,
    ):
        for swept, passed in sweeps:
            sites = {
                layer: (["resid_pre", "resid_post"] if layer == 0 else ["resid_post"]) for layer in swept
            }
            with capture(chat.model, ["resid_pre", "resid_post"], layers=swept) as stream:
                for batch in passed:
                    for (site, layer), value in stream.items():
                        if site in sites[layer]:
                            at = 0 if site == "resid_pre" else layer + 1
                            largest[at] = max(float(largest[at]), _along(value, basis, batch.attention_mask))
                    update(len(swept) * len(batch.rows))
    return largest.tolist(), how


def _along(
    stream: Float[Tensor, "batch seq d_model"], basis: Float[Tensor, "n d_model"], mask: Tensor
) -> float:
    x = stream.float()
    share = (x @ basis.to(x).T).abs().amax(-1) / torch.linalg.vector_norm(x, dim=-1).clamp_min(
        torch.finfo(x.dtype).tiny
    )
    return float(share[mask.bool()].max())


def _random_texts(vocab: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = torch.randint(min(8, vocab // 2), vocab, (8, 48), generator=generator).tolist()
    return rows


def _chat(checkpoint: Checkpoint, device: str) -> ChatModel:
    """Block by block; whole where its blocks cannot be read apart (shared weights)."""
    try:
        return load_layerwise(checkpoint.path, device=device, dtype="float32", tokenizer=False)
    except ModelError as error:
        try:
            return load_model(checkpoint.path, device=device, dtype="float32", tokenizer=False)
        except ModelError:
            raise error from None


# Weights


@dataclass(frozen=True)
class _WriterVerdict:
    edited: tuple[str, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def _judge_writer(
    checkpoint: Checkpoint, base: Checkpoint | None, arch: Architecture, writer: Writer, operation: Operation
) -> _WriterVerdict:
    """Which of a writer's tensors carry the edit."""
    edited, left, notes = [], [], []
    for name, reason in _tensors(checkpoint, base, arch, writer, operation):
        if reason is None:
            edited.append(name)
        elif reason:
            left.append((name, reason))
        else:
            notes.append(f"'{name}': a strength other than 1 cannot be told without the base (--base)")
    return _WriterVerdict(tuple(edited), tuple(left), tuple(notes))


def _tensors(
    checkpoint: Checkpoint, base: Checkpoint | None, arch: Architecture, writer: Writer, operation: Operation
) -> list[tuple[str, str | None]]:
    """Name and what speaks against it: None nothing, "" nothing could be found out."""
    stored = [
        s
        for s in (*writer.weights, *writer.biases)
        if s.expert is None or operation.expert in (None, s.expert)
    ]
    norm = writer.biased_norm
    behind = [] if norm is None else [TensorRef(norm.bias, 0)]
    if base is not None:
        wanted, (basis, _) = (
            bake_writer(base, arch, writer, operation),
            fold_operation(base, writer, operation),
        )
        against = [*((s, basis) for s in stored), *((s, operation.basis) for s in behind)]
        return [
            (s.name, _against_base(checkpoint, base, s, rows, wanted[s.name]))
            for s, rows in against
            if s.name in wanted
        ]
    basis, strengths = fold_operation(checkpoint, writer, operation)
    if not bool((strengths == 1).all()):
        return [(s.name, "") for s in (*stored, *behind)]
    against = [*((s, basis) for s in stored), *((s, operation.basis) for s in behind)]
    return [(s.name, _against_random(checkpoint, s, rows, operation.expert)) for s, rows in against]


def _against_base(
    checkpoint: Checkpoint,
    base: Checkpoint,
    stored: TensorRef,
    basis: Float[Tensor, "n d_model"],
    made: Tensor,
) -> str | None:
    """Along the directions the stored values have to be the edited ones; across them, nothing else
    may have changed.
    """
    found, before = _logical(checkpoint, stored.name), _logical(base, stored.name)
    if found.shape != made.shape:
        return f"has shape {list(found.shape)}, the base's {list(made.shape)}"
    if torch.equal(found, before) and not torch.equal(made, before):
        return "as in the base: the edit is not in it"
    axis = locate(checkpoint, stored.name).stream_axis(stored.axis)
    wanted, missed = ((value.movedim(axis, -1) @ basis.T).norm() for value in (made - before, made - found))
    if float(missed) > GONE * float(wanted) + 1e-6 * float(made.norm()):
        return f"carries {1 - float(missed / wanted):.2g} of what the edit takes along its directions"
    entry = checkpoint.tensors.get(stored.name)
    allowed = ROUNDINGS * ROUNDING.get(entry.dtype, PACKED_ROUNDING) if entry else PACKED_ROUNDING
    off = float((found - made).norm() / made.norm().clamp_min(torch.finfo(torch.float32).tiny))
    return (
        None
        if off <= allowed
        else f"differs from the edited base by {off:.2g} of its length, in more than the edit"
    )


def _against_random(
    checkpoint: Checkpoint, stored: TensorRef, basis: Float[Tensor, "n d_model"], expert: int | None
) -> str | None:
    weight, axis = _logical(checkpoint, stored.name), locate(checkpoint, stored.name).stream_axis(stored.axis)
    if expert is not None and stored.expert is None:
        weight, axis = weight[expert], axis - 1
    vectors = weight.movedim(axis, -1)
    whole = float(vectors.norm())
    if not whole or not len(basis):
        return None
    share = float((vectors @ basis.T).norm()) / whole * (vectors.shape[-1] / len(basis)) ** 0.5
    return (
        None
        if share < GONE
        else f"still writes along the directions, {share:.2g} times as much as a random writer would"
    )


def _logical(checkpoint: Checkpoint, name: str) -> Tensor:
    encoded = locate(checkpoint, name)
    return decode(encoded, {part: read_stored(checkpoint, part) for part in encoded.parts}).float()
