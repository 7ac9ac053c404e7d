"""Edit a GGUF file as it is: writers are dequantised, edited and stored again in their own types,
all else keeps its bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Architecture, check_covered
from vectomy.checkpoint import Change, Checkpoint, ModelSource, architecture_in, read_stored
from vectomy.checkpoint.gguf import (
    Cost,
    GgufAdded,
    GgufChange,
    GgufFile,
    GgufView,
    as_checkpoint,
    distance,
    gguf_mark,
    gguf_name,
    rewrite_gguf,
)
from vectomy.checkpoint.quantization import decode, locate
from vectomy.core.errors import EditError, FingerprintError
from vectomy.core.progress import Progress, silent
from vectomy.edits.edit import Edit
from vectomy.edits.export.bake import Baking
from vectomy.edits.export.receipt import Receipt
from vectomy.edits.operation import shape_of

__all__ = ["edit_gguf"]

# Architectures in which llama.cpp takes biases of writers that the original models lack.
TAKES_BIAS = ("llama",)
# How far a file's writers may be from the base's, beyond what rounding to their types does to them.
UNLIKE = 1.5


def edit_gguf(
    edit: Edit,
    path: str | Path | GgufFile,
    out: str | Path,
    *,
    base: ModelSource | None = None,
    progress: Progress = silent,
) -> Receipt:
    """Write the edited copy of a GGUF file to the new file `out`.

    Tied embeddings: an edit of the embedding unties the head, which is added with the old bytes.

    Args:
        base: the model folder that the edit was made for. It may be left out where the edit was
            made from this very file.

    Raises:
        FingerprintError: nothing shows that the file holds the edit's base, or it holds another
            model.
        ArchitectureError: an architecture or a tensor whose place in the stream is not known.
        EditError: an addition that the file cannot hold.
        ArtifactError, CheckpointError, DiskFullError: see checkpoint/gguf/.
    """
    file = path if isinstance(path, GgufFile) else GgufFile.open(path)
    view = as_checkpoint(file, edit.base.model_type)
    arch = architecture_in(view.checkpoint)
    check_covered(arch)
    _check_base(edit, file, view, arch, base)
    baking = Baking(view.checkpoint, arch)
    for writer, operation in edit.writers(arch):
        if operation.addition is not None and not writer.biases and file.architecture not in TAKES_BIAS:
            raise EditError(
                f"the edit adds a vector to {operation.writer_name}, and llama.cpp takes no bias there in "
                f"a {file.architecture} model; use it as hooks"
            )
        baking.add(writer, operation)
    untied, _, notes = baking.untie_head()
    added = [GgufAdded("output.weight", copy_of="token_embd.weight")] if untied else []
    changes: dict[str, GgufChange] = {}
    for change in baking.changes:
        (name,) = change.tensors
        if name in baking.added:
            added += _bias(name, change, arch)
        else:
            changes[view.names[name]] = _in_gguf(name, change, arch)
    costs = rewrite_gguf(file, out, changes, added=added, progress=progress)
    receipt = Receipt.of(view.checkpoint, arch, baking.edited)
    notes = [note.replace(arch.head, "output.weight") for note in notes]
    biases = [new.name for new in added if new.values is not None]
    if biases:
        notes.append(f"biases were added to hold the vectors: {', '.join(biases)}")
    return _complete_receipt(receipt, view, costs, file, [*notes, *_types(costs, file)])


def _in_gguf(name: str, change: Change, arch: Architecture) -> GgufChange:
    shape = arch.shapes[name]

    def make(old: Tensor) -> Tensor:
        if len(shape) == 1:
            return change.make({name: old[0]})[name][None]
        return change.make({name: old})[name]

    rows = len(shape) == 1 or change.rows
    vectors: Literal["output", "input"] = "input" if rows else "output"
    return GgufChange(make, vectors)


def _bias(name: str, change: Change, arch: Architecture) -> list[GgufAdded]:
    """The bias that holds an added vector. Its siblings' zeros, which transformers would want, have
    no place here.
    """
    values = change.make({})[name].float()
    if not bool(values.any()):
        return []
    return [GgufAdded(gguf_name(arch.model_type, arch.n_layers, name), values=values)]


def _check_base(
    edit: Edit, file: GgufFile, view: GgufView, arch: Architecture, base: ModelSource | None
) -> None:
    """Raises FingerprintError unless the file is shown to hold the edit's base."""
    if not edit.base.same_shape(arch):
        raise FingerprintError(f"the edit is for {edit.base}; {file.path} is {shape_of(arch)}")
    if base is None:
        if edit.about.get("gguf_sha256") != gguf_mark(file.path)["gguf_sha256"]:
            raise FingerprintError(
                f"nothing shows that {file.path} holds {edit.base}, which the edit is for: give the model "
                "folder that it was made for (base=, --base MODEL), so that the file can be compared with it"
            )
        return
    opened = Checkpoint.of(base)
    edit.check_base(opened)
    for name, stored in view.names.items():
        if len(arch.shapes[name]) == 2 and name in {w.weights[0].name for w in arch.writers}:
            rows = min(64, arch.shapes[name][0])
            found, allowed = distance(file, stored, _first_rows(opened, name, rows))
            if found > UNLIKE * allowed:
                raise FingerprintError(
                    f"'{stored}' of {file.path} differs from the base's by {found:.2g} of its length; "
                    f"rounding to {file.tensors[stored].type} explains {allowed:.2g}: it is another model"
                )


def _first_rows(checkpoint: Checkpoint, name: str, count: int) -> Float[Tensor, "rows columns"]:
    encoded = locate(checkpoint, name)
    if encoded.encoding == "plain":
        return read_stored(checkpoint, name, 0, count).float()
    return decode(encoded, {part: read_stored(checkpoint, part) for part in encoded.parts})[:count].float()


def _types(costs: Mapping[str, Cost], file: GgufFile) -> list[str]:
    """Notes on tensors that had to change their type."""
    moved = Counter((file.tensors[name].type, cost.type) for name, cost in costs.items())
    return [
        f"{count} tensors of type {old} cannot hold the edit and are stored as {new} now"
        for (old, new), count in moved.items()
        if old != new
    ]


def _complete_receipt(
    receipt: Receipt, view: GgufView, costs: Mapping[str, Cost], file: GgufFile, notes: list[str]
) -> Receipt:
    """The receipt in GGUF's own names, with what storing cost."""
    said = Counter(cost.type for name, cost in costs.items() if cost.type == file.tensors[name].type)
    if said:
        notes.append(
            f"edited in their own types: {', '.join(f'{count} of {kind}' for kind, count in said.items())}"
        )
    notes.append(
        "the stream was not measured: transformers does not run GGUF files; `vectomy verify` runs "
        "the dequantised weights"
    )
    return replace(
        receipt,
        edited=tuple(view.names.get(name, name) for name in receipt.edited),
        left=tuple((view.names.get(name, name), why) for name, why in receipt.left),
        notes=tuple(notes),
        rounding={name: cost.error for name, cost in costs.items()},
        residue={name: cost.lost for name, cost in costs.items()},
    )
