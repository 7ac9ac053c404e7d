"""Bake an Edit into a checkpoint: the edited copy of a model folder, one tensor in memory at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vectomy import linalg
from vectomy.apply.receipt import Receipt
from vectomy.architecture import Architecture, Writer, resolve
from vectomy.checkpoint import Checkpoint, read_tensor, rewrite
from vectomy.checkpoint.writer import Change
from vectomy.edit import Edit, Operation
from vectomy.errors import CheckpointError, EditError
from vectomy.progress import Progress, silent

__all__ = ["bake"]


def bake(edit: Edit, checkpoint: str | Path | Checkpoint, out: str | Path, *, progress: Progress = silent) -> Receipt:
    """Write the edited copy of a model folder to the new folder `out`.

    The result computes what `edit.hooks(model)` computes. Tied embeddings: an edit of the embedding unties the head,
    which keeps its old values; an edit without it leaves both tied and untouched.

    Raises:
        FingerprintError: the folder is not the edit's base.
        ArchitectureError: a tensor whose place in the stream is not known.
        EditError: an addition to a writer that has no bias.
        ArtifactError, CheckpointError, DiskFullError: see checkpoint/.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    arch = resolve(opened.config)
    arch.check_covered(opened.tensors)
    edit.check_base(opened)
    changes: dict[str, Change] = {}
    for writer, operation in edit.writers(arch):
        changes.update(_changes(opened, arch, writer, operation))
    copies, config, notes = _untied(opened, arch, changes)
    if opened.other_weights:
        notes.append(f"left behind, since they hold the unedited weights: {', '.join(opened.other_weights)}")
    # The base's card says nothing true of an edited model.
    omit = ["README.md"] if changes and "README.md" in opened.sidecars else []
    if omit:
        notes.append("left behind: README.md, which describes the base")
    rewrite(opened, out, changes, copies=copies, config=config, omit=omit, purpose=edit.sha256, progress=progress)
    return Receipt(
        edited=tuple(sorted(changes, key=list(opened.tensors).index)),
        left=tuple(
            (name, "no operation of the edit names it") for name in _writer_tensors(opened, arch) if name not in changes
        ),
        parameters=sum(torch.Size(opened.tensors[name].shape).numel() for name in changes),
        notes=tuple(notes),
    )


def _writer_tensors(checkpoint: Checkpoint, arch: Architecture) -> list[str]:
    return [name for writer in arch.writers for name in (writer.weight, writer.bias) if name in checkpoint.tensors]


def _changes(checkpoint: Checkpoint, arch: Architecture, writer: Writer, operation: Operation) -> dict[str, Change]:
    """What happens to the weight of a writer, and to its bias if it has one."""
    entry = checkpoint.tensors[writer.weight]
    rows = writer.component == "embedding"
    expected = (arch.vocab, arch.d_model) if rows else (arch.d_model, *entry.shape[1:])
    if len(entry.shape) != 2 or entry.shape != expected:
        raise CheckpointError(f"'{writer.weight}' has shape {list(entry.shape)}; config.json promises {list(expected)}")
    basis, strengths = operation.basis, operation.strengths

    def weight(old: Tensor) -> Tensor:
        edit = linalg.edit_rows if rows else linalg.edit_matrix
        return edit(old.float(), basis, strengths, operation.norm).to(old.dtype)

    def bias(old: Tensor) -> Tensor:
        new = linalg.remove(old.float(), basis, strengths)
        return (new if operation.addition is None else new + operation.addition).to(old.dtype)

    if operation.addition is not None and writer.bias not in checkpoint.tensors:
        raise EditError(
            f"the edit adds a vector to {operation.writer_name}, but '{writer.module}' has no bias to hold it; use it as hooks"
        )
    changes: dict[str, Change] = {writer.weight: weight} if strengths.any() else {}
    return changes | ({writer.bias: bias} if writer.bias in checkpoint.tensors else {})


def _untied(
    checkpoint: Checkpoint, arch: Architecture, changes: dict[str, Change]
) -> tuple[dict[str, str], dict[str, bool] | None, list[str]]:
    """Give the head a copy of the unedited embedding where the two are one tensor and the embedding is edited."""
    embedding, head = f"{arch.family.embedding}.weight", f"{arch.family.head}.weight"
    if not arch.tied or embedding not in changes:
        return {}, None, []
    note = f"the head was tied to the embedding; it is untied ('{head}' holds the unedited values)"
    if head not in checkpoint.tensors:
        return {head: embedding}, {"tie_word_embeddings": False}, [note]
    if not torch.equal(read_tensor(checkpoint, embedding), read_tensor(checkpoint, head)):
        raise CheckpointError(
            f"config.json ties '{head}' to '{embedding}', but {checkpoint.path} holds two different ones"
        )
    return {}, {"tie_word_embeddings": False}, [note]
