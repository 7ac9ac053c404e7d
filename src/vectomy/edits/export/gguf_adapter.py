"""Write an Edit as a LoRA adapter for llama.cpp: one GGUF file beside the unedited model, with a
scale as a dial.

The form is llama.cpp's own (docs in its convert_lora_to_gguf.py and src/llama-adapter.cpp): of each
weight W the tensors W.lora_a [rank, d_in] and W.lora_b [d_out, rank]; W x + (scale * alpha / rank)
B A x is computed, with one alpha for all.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vectomy.architecture import Architecture, Writer, check_covered
from vectomy.checkpoint import Checkpoint, ModelSource, architecture_in
from vectomy.checkpoint.gguf import check_installed, check_new, gguf_architecture, gguf_name
from vectomy.checkpoint.quantization import locate
from vectomy.core.errors import EditError
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import write_whole
from vectomy.edits.edit import Edit
from vectomy.edits.export.low_rank import factors_of, read_weight, removal_of
from vectomy.edits.export.receipt import Receipt
from vectomy.edits.operation import Operation

__all__ = ["write_gguf_lora"]


def write_gguf_lora(
    edit: Edit, checkpoint: ModelSource, out: str | Path, *, progress: Progress = silent
) -> Receipt:
    """Write the adapter file `out`, in float32, from a model folder alone; one writer's weights in
    memory at a time.

    At scale 1 it is the edit, at scale s the edit times s: a removal is linear in its strength.

    Raises:
        FingerprintError: the folder is not the edit's base.
        ArchitectureError: a model type whose names in GGUF are not known here.
        EditError: an edit that no such adapter can hold exactly; it names the writer and the
            remedy.
        ArtifactError: `out` exists.
        CheckpointError, DiskFullError: see checkpoint/.
    """
    check_installed()
    opened = Checkpoint.of(checkpoint)
    arch = architecture_in(opened)
    check_covered(arch)
    edit.check_base(opened)
    out = Path(out).expanduser().absolute()
    check_new(out)
    pairs = edit.writers(arch)
    for writer, operation in pairs:
        _check(writer, operation, opened)
    if not pairs:
        raise EditError(
            "the edit changes nothing, and an adapter has at least one weight of rank 1; use the base model"
        )
    made: dict[str, tuple[Tensor, Tensor]] = {}
    with progress("adapter", len(pairs), "writers") as update:
        for writer, operation in pairs:
            made[gguf_name(arch.model_type, arch.n_layers, writer.weights[0].name)] = _pair(
                opened, writer, operation
            )
            update(1)
    with write_whole(out) as beside:
        _write(beside, made, edit, arch)
    notes = ["at llama.cpp's --lora-scaled FILE:S the edit has S times its strength"]
    broken = [name for name, pair in made.items() if not all(bool(part.isfinite().all()) for part in pair)]
    receipt = Receipt.of(opened, arch, [writer.weights[0].name for writer, _ in pairs], notes=notes)
    return receipt.with_non_finite(broken)


def _check(writer: Writer, operation: Operation, checkpoint: Checkpoint) -> None:
    """Raises EditError for an operation that such an adapter cannot hold exactly."""
    name = operation.writer_name
    if operation.strengths.any() and operation.norm != "none":
        raise EditError(
            f"{name}: norm mode {operation.norm} rescales '{writer.weight}', a change of full rank that no "
            "llama.cpp adapter holds; use norm mode none, or apply the edit with --as gguf"
        )
    if operation.addition is not None:
        raise EditError(
            f"the edit adds a vector to {name}, and a llama.cpp adapter has no biases; apply the edit "
            "with --as gguf"
        )
    if writer.biases or any(passed.norm.centred for passed in writer.norms):
        raise EditError(
            f"{name}: '{writer.module}' has a bias that the edit changes, and a llama.cpp adapter has "
            "none; apply the edit with --as gguf"
        )
    if writer.component not in ("attention", "mlp"):
        raise EditError(
            f"{name}: llama.cpp adapters are not written for embeddings and experts; leave them alone "
            "(--no-embeddings), or apply the edit with --as gguf"
        )
    if locate(checkpoint, writer.weights[0].name).shape[writer.weights[0].axis] != operation.basis.shape[1]:
        raise EditError(f"{name}: '{writer.weight}' is stored across; apply the edit with --as gguf")


def _pair(checkpoint: Checkpoint, writer: Writer, operation: Operation) -> tuple[Tensor, Tensor]:
    """A [rank, d_in] and B [d_out, rank]."""
    stored = writer.weights[0]
    weight, axis = read_weight(checkpoint, stored.name, stored.axis)
    removal = removal_of(checkpoint, writer, operation)
    factors = factors_of(weight, axis, removal, "none", lengths=False, name=writer.weight)
    return factors.right, factors.left


def _write(path: Path, made: dict[str, tuple[Tensor, Tensor]], edit: Edit, arch: Architecture) -> None:
    from gguf import GGUFWriter

    rank = max(len(a) for a, _ in made.values())
    writer = GGUFWriter(path, gguf_architecture(arch.model_type))
    writer.add_string("general.type", "adapter")
    writer.add_string("general.name", f"{edit.about.get('behaviour', 'an edit')}, by vectomy")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for name, (a, b) in made.items():
        # alpha / rank of this weight is undone, so that scale 1 is the edit.
        scaled = b * (b.shape[1] / rank)
        for part, value in (("lora_a", a), ("lora_b", scaled)):
            writer.add_tensor(f"{name}.{part}", value.to(torch.float32).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
