"""The inputs of healing: a base, an Edit of it, and the edited checkpoint, which is baked here
unless it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vectomy.architecture import check_covered
from vectomy.checkpoint import Checkpoint, architecture_in, fingerprint
from vectomy.checkpoint.quantization import check_supported
from vectomy.core.errors import FingerprintError, UsageError
from vectomy.core.progress import Progress
from vectomy.edits.edit import Edit
from vectomy.edits.operation import fold_operation, shape_of
from vectomy.models import probe_architecture
from vectomy.models.demo import model_folder

__all__ = ["Inputs", "compute_protected_directions", "find_norms_behind", "open_inputs"]

# Singular values below this share of the largest count as zero.
SAME = 1e-4


@dataclass(frozen=True)
class Inputs:
    """`edited` is None where the Edit has yet to be baked."""

    base: Path
    edited: Path | None
    edit: Edit | None
    name: str

    @property
    def identity(self) -> list[str | None]:
        return [
            fingerprint(Checkpoint.open(self.base)),
            None if self.edited is None else fingerprint(Checkpoint.open(self.edited)),
            None if self.edit is None else self.edit.sha256,
        ]


def open_inputs(
    model: str,
    base: str | None,
    edit: Edit | None,
    *,
    project: bool,
    trust_remote_code: bool,
    progress: Progress,
) -> Inputs:
    """MODEL is the base of the Edit, or, with `base`, an edited checkpoint.

    Raises:
        UsageError: neither an Edit nor a base is given, the directions to protect are not known, or
            the edited checkpoint is quantised.
        FingerprintError: the Edit is of another base, or the checkpoint has another shape.
        CheckpointError, ArchitectureError: a folder is not whole, or a model is not known.
    """
    if edit is None and base is None:
        raise UsageError(
            "healing needs the edit: its base as MODEL with --edit FILE, or an edited checkpoint as MODEL "
            "with its base as --base"
        )
    if edit is None and project:
        raise UsageError(
            "--project needs the Edit to know which directions to protect: pass --edit FILE, or --no-project"
        )
    first = model_folder(model, progress)
    source = first if base is None else model_folder(base, progress)
    for folder in dict.fromkeys((first, source)):
        probe_architecture(folder, trust_remote_code=trust_remote_code, progress=progress)
    opened = Checkpoint.open(source)
    arch = architecture_in(opened)
    check_covered(arch)
    _check_trainable(Checkpoint.open(first), baked=base is None)
    if edit is not None:
        edit.check_base(opened)
    if base is not None:
        other = architecture_in(Checkpoint.open(first))
        if (arch.model_type, arch.d_model, arch.n_layers, arch.vocab) != (
            other.model_type,
            other.d_model,
            other.n_layers,
            other.vocab,
        ):
            raise FingerprintError(
                f"{model} is {shape_of(other)}; its base {base} is {shape_of(arch)}. Give the model it was "
                "made from"
            )
    return Inputs(source, None if base is None else first, edit, model)


def _check_trainable(checkpoint: Checkpoint, *, baked: bool) -> None:
    """Check that an edited checkpoint can hold what is learned: its own weights, or those that a
    bake of it has.
    """
    scheme = check_supported(checkpoint.config)
    # A bake decodes integers in groups. Experts take no adapter.
    if not scheme.packs_layers or (baked and scheme.integers is not None):
        return
    raise UsageError(
        f"healing merges what it learns into plain weights, and those of {checkpoint.path} are stored in "
        f"{scheme.method}; give a copy that is not quantised (load it with transformers, call "
        "model.dequantize(), save it), or the release it was made from with --edit FILE"
    )


def compute_protected_directions(edit: Edit, base: Path) -> dict[str, Tensor]:
    """By live module, orthonormal rows that span the directions that the Edit changes there, before
    any norm that follows the writer.
    """
    opened = Checkpoint.open(base)
    arch = architecture_in(opened)
    found: dict[str, list[Tensor]] = {}
    for writer, operation in edit.writers(arch):
        if operation.strengths.any():
            basis, strengths = fold_operation(opened, writer, operation)
            found.setdefault(writer.module, []).append(basis[strengths != 0])
    return {module: _span(torch.cat(rows)) for module, rows in found.items()}


def find_norms_behind(edit: Edit, base: Path) -> list[str]:
    """Live norms between a writer that the Edit names and the stream. They are frozen: with another
    gain, the protected rows would be others.
    """
    arch = architecture_in(Checkpoint.open(base))
    return sorted({passed.module for writer, _ in edit.writers(arch) for passed in writer.norms})


def _span(rows: Tensor) -> Tensor:
    _, sizes, axes = torch.linalg.svd(rows.double(), full_matrices=False)
    return axes[sizes > SAME * sizes[0]].float().contiguous()
