"""Write the result of a training into a checkpoint: W + s B A of an adapter, or trained weights,
one tensor at a time.

Untrained tensors keep their bytes. An adapter of another base is refused: by the fingerprint that
training wrote beside it or, for an adapter trained elsewhere, by its modules and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from vectomy.checkpoint import Change, Checkpoint, ModelSource, architecture_in, fingerprint, rewrite
from vectomy.checkpoint.lora import LoraUpdate, is_transposed_lora, read_lora
from vectomy.checkpoint.quantization import check_supported, integer_weights, locate
from vectomy.core.errors import CheckpointError, FingerprintError
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import read_json
from vectomy.healing.job import RECORD, WEIGHTS
from vectomy.healing.projection import WriterDirections, project_matrix

__all__ = ["check_adapter", "make_adapter_changes", "merge_training", "read_projected_lora"]

TensorChange = Callable[[Tensor], Tensor]


def merge_training(
    trained: Path,
    checkpoint: ModelSource,
    out: str | Path,
    *,
    directions: WriterDirections | None = None,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Write the checkpoint with the trained change in it to the new folder `out`.

    Args:
        trained: the folder of an adapter, or of trained weights.
        directions: project the adapter out of these directions first (projection.py). An adapter
            that was trained with the projection is not changed by it.

    Returns:
        The names of the changed tensors.

    Raises:
        FingerprintError: the adapter or the weights belong to another base.
        CheckpointError: the adapter does more than W + s B A, or trains a weight that is stored
            quantised.
        ArtifactError, DiskFullError: see checkpoint/.
    """
    opened = Checkpoint.of(checkpoint)
    _check_record(trained, opened)
    by_name = (
        _make_weight_changes(trained, opened)
        if trained.name == WEIGHTS
        else make_adapter_changes(trained, opened, directions or {})
    )
    changes = [Change.of(name, change) for name, change in by_name.items()]
    rewrite(opened, out, changes, purpose="heal", progress=progress)
    return tuple(by_name)


def _check_record(trained: Path, checkpoint: Checkpoint) -> None:
    file = trained / RECORD
    if not file.is_file():
        return
    expected, actual = read_json(file).get("base"), fingerprint(checkpoint)
    if expected != actual:
        raise FingerprintError(
            f"the adapter {trained} was trained on weights {str(expected)[:12]}; {checkpoint.path} holds "
            f"{actual[:12]}. Use the model it was trained on"
        )


def check_adapter(adapter: Path, checkpoint: Checkpoint) -> None:
    """Raises as `merge_training` does, before anything is written."""
    _check_record(adapter, checkpoint)
    make_adapter_changes(adapter, checkpoint, {})


def make_adapter_changes(
    adapter: Path, checkpoint: Checkpoint, directions: WriterDirections
) -> dict[str, TensorChange]:
    """The change of each tensor that the adapter trains, by stored name.

    Raises:
        FingerprintError: the checkpoint has no such weight, or one of another shape.
        CheckpointError: a weight is stored quantised; see also checkpoint/lora.py.
    """
    updates = read_projected_lora(adapter, directions)
    square_is_transposed = is_transposed_lora(adapter)
    arch = architecture_in(checkpoint)
    changes: dict[str, TensorChange] = {}
    for module, update in updates.items():
        name, shape = arch.stored(f"{module}.weight"), update.shape
        _check_plain(checkpoint, name)
        entry = checkpoint.tensors.get(name)
        if entry is None or tuple(entry.shape) not in (shape, shape[::-1]):
            actual = "no such weight" if entry is None else f"one of shape {list(entry.shape)}"
            raise FingerprintError(
                f"the adapter {adapter} changes '{module}' by a matrix of shape {list(shape)}; "
                f"{checkpoint.path} has {actual}. It is an adapter of another base"
            )
        transposed = square_is_transposed if shape[0] == shape[1] else tuple(entry.shape) != shape
        changes[name] = update.adder(transposed)
    return changes


def read_projected_lora(adapter: Path, directions: WriterDirections) -> dict[str, LoraUpdate]:
    """The updates of an adapter by live module, with B <- (I - R^T R) B for the writers in
    `directions`.

    Raises:
        CheckpointError: see checkpoint/lora.py.
    """
    return {
        module: replace(update, up=project_matrix(update.up, directions[module]))
        if module in directions
        else update
        for module, update in read_lora(adapter).items()
    }


def _make_weight_changes(trained: Path, checkpoint: Checkpoint) -> dict[str, TensorChange]:
    """The change of each trained weight that the checkpoint stores, by stored name."""
    arch = architecture_in(checkpoint)
    changes: dict[str, TensorChange] = {}
    for live, file in _find_tensors(trained).items():
        name = arch.stored(live)
        _check_plain(checkpoint, name)
        if name in checkpoint.tensors:
            changes[name] = _replace_by(file, live)
    if not changes:
        raise FingerprintError(
            f"the weights in {trained} name none of the tensors of {checkpoint.path}; they belong to another "
            "base"
        )
    return changes


def _check_plain(checkpoint: Checkpoint, name: str) -> None:
    method = check_supported(checkpoint.config).method
    packed = name in checkpoint.tensors and locate(checkpoint, name).encoding != "plain"
    if method and (packed or name in integer_weights(checkpoint)):
        raise CheckpointError(
            f"'{name}' of {checkpoint.path} is stored in {method}, and what is learned can be merged into "
            "plain weights alone; train on a copy that is not quantised"
        )


def _find_tensors(trained: Path) -> Mapping[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(trained.glob("*.safetensors")):
        with safetensors.safe_open(file, framework="pt") as opened:
            files |= dict.fromkeys(opened.keys(), file)
    return files


def _replace_by(file: Path, name: str) -> TensorChange:
    def change(old: Tensor) -> Tensor:
        with safetensors.safe_open(file, framework="pt") as opened:
            new: Tensor = opened.get_tensor(name)
        # A weight that differs by rounding alone keeps its bytes.
        return old if torch.equal(new.to(old.dtype), old) else new.to(old.dtype)

    return change
