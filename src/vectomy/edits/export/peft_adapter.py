"""Write an Edit as a PEFT adapter of its exact rank, from a checkpoint alone; one writer's weights
in memory at a time.

    write_lora(edit, folder, "adapter")
    PeftModel.from_pretrained(base, "adapter")  # as under edit.hooks(base); merged, as baked

peft_targets.py says how PEFT wraps each writer and what it cannot hold; low_rank.py makes the thin
matrices.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor

from vectomy.architecture import Architecture, TensorRef, check_covered
from vectomy.checkpoint import Checkpoint, ModelSource, architecture_in, read_tensor
from vectomy.checkpoint.quantization import locate
from vectomy.checkpoint.reader import TORCH_DTYPES
from vectomy.core import linalg
from vectomy.core.file_moves import move_into_place
from vectomy.core.output_path import check_new_folder
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import write_json, write_whole
from vectomy.core.write_errors import name_write_errors
from vectomy.edits.edit import Edit
from vectomy.edits.export.low_rank import factors_of, read_weight, removal_of
from vectomy.edits.export.peft_targets import NOT_TRANSPOSED, PeftTarget, targets_of
from vectomy.edits.export.receipt import Receipt

__all__ = ["write_lora"]

# The module that PEFT wraps a transformers model in.
PREFIX = "base_model.model."


def write_lora(
    edit: Edit,
    checkpoint: ModelSource,
    out: str | Path,
    *,
    dtype: Literal["float32", "checkpoint"] = "float32",
    progress: Progress = silent,
) -> Receipt:
    """Write the adapter folder `out`: adapter_config.json, adapter_model.safetensors, and the Edit
    itself beside them.

    Every writer gets the rank that its operation has after norms are folded in, at scaling 1; norm
    mode row makes the adapter DoRA. The same edit of the same checkpoint gives the same bytes.

    Args:
        dtype: of the adapter's tensors; `checkpoint` stores each as its writer is stored (bfloat16
            if quantised).

    Raises:
        FingerprintError: the folder is not the edit's base.
        ArchitectureError: a tensor whose place in the stream is not known.
        EditError: an edit that no adapter can hold exactly; it names the writer and the remedy.
        ArtifactError: `out` exists and is not empty, or lies inside the checkpoint.
        CheckpointError, DiskFullError: see checkpoint/.
    """
    opened = Checkpoint.of(checkpoint)
    arch = architecture_in(opened)
    check_covered(arch)
    edit.check_base(opened)
    out = Path(out).absolute()
    targets = targets_of(edit, arch)
    check_new_folder(out, opened.path)
    adapter = _Adapter(opened, arch, targets, dtype == "float32")
    with progress("adapter", len(targets), "writers") as update:
        for target in targets:
            adapter.add(target)
            update(1)
    beside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with name_write_errors(out):
            beside.mkdir(parents=True)
            write_json(beside / "adapter_config.json", adapter.config(edit.base.name))
            # Without the format transformers does not take the file for PyTorch's.
            data = safetensors.torch.save(adapter.tensors, metadata={"format": "pt"})
            with write_whole(beside / "adapter_model.safetensors") as path:
                path.write_bytes(data)
            edit.save(beside / "edit.safetensors")
            if out.exists():
                out.rmdir()
            move_into_place(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    broken = [name for name, values in adapter.tensors.items() if not bool(values.isfinite().all())]
    return Receipt.of(opened, arch, adapter.edited, notes=adapter.notes).with_non_finite(broken)


@dataclass
class _Adapter:
    checkpoint: Checkpoint
    arch: Architecture
    targets: Sequence[PeftTarget]
    full: bool
    """Tensors in float32, not in the checkpoint's dtype."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    edited: list[str] = field(default_factory=list)
    modules: dict[str, int] = field(default_factory=dict)
    """Rank by module, `parameters` by parameter."""
    parameters: dict[str, int] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    """Changed biases, by live name."""

    def __post_init__(self) -> None:
        every = [operation for target in self.targets for operation in target.operations]
        self.dora = any(operation.norm == "row" for operation in every)
        # Kept as a change, a bias comes and goes with the adapter; but PEFT then wants one of every
        # module.
        self.lora_bias = not self.dora and all(target.has_bias for target in self.targets)

    def add(self, target: PeftTarget) -> None:
        if target.form == "experts":
            self._experts(target)
        else:
            self._matrix(target)
        for stored in target.writer.biases:
            self._bias(target, stored)
        operation = target.operations[0]
        norm = target.writer.biased_norm
        if norm is not None and operation.strengths.any():
            self._vector(norm.live_bias, norm.bias, operation.basis, operation.strengths, None)

    def _matrix(self, target: PeftTarget) -> None:
        writer, (operation,), stored = target.writer, target.operations, target.writer.weights[0]
        removal = removal_of(self.checkpoint, writer, operation)
        weight, axis = read_weight(self.checkpoint, stored.name, stored.axis)
        norm = operation.norm if operation.strengths.any() else "none"
        factors = factors_of(weight, axis, removal, norm, lengths=self.dora, name=writer.weight)
        if target.form == "embedding":
            pair = {"lora_embedding_A": factors.right, "lora_embedding_B": factors.left}
        elif target.form == "parameter" and writer.slot.axis == 1:
            # The parameter itself is the product B A, [rows, d_model].
            pair = {"lora_A.weight": factors.left.T, "lora_B.weight": factors.right.T}
        else:
            pair = {"lora_A.weight": factors.right, "lora_B.weight": factors.left}
        if factors.magnitude is not None:
            pair["lora_magnitude_vector"] = factors.magnitude
        for key, value in pair.items():
            self._put(f"{target.owner}.{key}", value, stored.name)
        held, name = (
            (self.parameters, writer.weight) if target.form == "parameter" else (self.modules, writer.module)
        )
        held[name] = len(removal[1])
        if operation.strengths.any():
            self.edited.append(stored.name)

    def _experts(self, target: PeftTarget) -> None:
        """One parameter [expert, ...]: as many ranks for each expert as the largest has, zeros
        where one has fewer.
        """
        writer = target.writer
        removals = {op.expert: removal_of(self.checkpoint, writer, op) for op in target.operations}
        rank = max(len(strengths) for _, strengths in removals.values())
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for stored in writer.weights:
            if stored.expert is not None and not {None, stored.expert} & removals.keys():
                continue
            self.edited.append(stored.name)
            weight, axis = read_weight(self.checkpoint, stored.name, stored.axis)
            each = (
                [(stored.expert, weight, axis)]
                if stored.expert is not None
                else [(number, matrix, axis - 1) for number, matrix in enumerate(weight)]
            )
            for number, matrix, at in each:
                removal = removals.get(None, removals.get(number))
                if removal is not None:
                    factors = factors_of(matrix, at, removal, "none", lengths=False, name=writer.weight)
                    found[number] = (factors.left, factors.right)
        count = (
            len(writer.weights)
            if writer.weights[0].expert is not None
            else self.arch.shapes[writer.weights[0].name][0]
        )
        left, right = next(iter(found.values()))
        lefts, rights = torch.zeros(count, len(left), rank), torch.zeros(count, rank, right.shape[1])
        for number, (left, right) in found.items():
            lefts[number, :, : left.shape[1]], rights[number, : len(right)] = left, right
        if writer.slot.axis == 2 and self.arch.model_type in NOT_TRANSPOSED:
            lefts, rights = rights.mT, lefts.mT
        # Rows of A run through the ranks of one expert, columns of B through the experts of one
        # rank.
        base = target.owner + (".base_layer" if self._bias_wraps(target) else "")
        self._put(f"{base}.lora_A.weight", rights.flatten(0, 1), writer.weights[0].name)
        self._put(f"{base}.lora_B.weight", lefts.permute(1, 2, 0).flatten(1), writer.weights[0].name)
        self.parameters[writer.weight] = rank

    def _bias_wraps(self, target: PeftTarget) -> bool:
        """Experts' biases are one more parameter of the same module, and PEFT wraps what it finds
        later around the first.
        """
        biases = target.writer.biases
        return bool(biases) and len(self.arch.shapes[biases[0].name]) == 2

    def _bias(self, target: PeftTarget, stored: TensorRef) -> None:
        live = target.writer.bias
        assert live is not None
        removals = {op.expert: removal_of(self.checkpoint, target.writer, op) for op in target.operations}
        if len(self.arch.shapes[stored.name]) == 1:
            self._vector(live, stored.name, *removals[None], target.operations[0].addition)
            return
        old = read_tensor(self.checkpoint, stored.name).float()
        columns = []
        for number, (basis, strengths) in removals.items():
            change = -(old @ basis.T) * strengths
            own = torch.arange(len(old))[:, None] == number
            columns.append(change if number is None else torch.where(own, change, 0.0))
        owner = live.rpartition(".")[0]
        self._put(f"{owner}.lora_A.weight", torch.cat([basis for basis, _ in removals.values()]), stored.name)
        self._put(f"{owner}.lora_B.weight", torch.cat(columns, dim=1), stored.name)
        self.parameters[live] = sum(len(strengths) for _, strengths in removals.values())
        self.edited.append(stored.name)

    def _vector(
        self, live: str, stored: str, basis: Tensor, strengths: Tensor, addition: Tensor | None
    ) -> None:
        """A bias: its change beside the module's adapter, or its new values whole."""
        old = read_tensor(self.checkpoint, stored).float()
        held = self.vectors.get(live, old)
        new = linalg.remove(held, basis, strengths)
        self.vectors[live] = new if addition is None else new + addition
        owner = live.rpartition(".")[0]
        wrapped = any(target.owner == owner for target in self.targets)
        if self.lora_bias:
            self._put(f"{owner}.lora_B.bias", self.vectors[live] - old, stored)
        else:
            self._put(f"{owner}.base_layer.bias" if wrapped else live, self.vectors[live], stored)
        if stored not in self.edited:
            self.edited.append(stored)

    def _put(self, name: str, value: Tensor, stored: str) -> None:
        kept = torch.float32
        if not self.full:
            first = self.checkpoint.tensors[locate(self.checkpoint, stored).written_from].dtype
            kept = TORCH_DTYPES.get(first, torch.bfloat16)
        self.tensors[PREFIX + name] = value.to(kept).contiguous()

    @property
    def notes(self) -> tuple[str, ...]:
        said = []
        if self.vectors and not self.lora_bias:
            said.append(
                f"{len(self.vectors)} biases are in the adapter whole, not as changes: PEFT does not take "
                "them back when the adapter is disabled or unloaded"
            )
        fast = [target.writer.module for target in self.targets if target.writer.slot.functional]
        if fast:
            said.append(
                f"fast kernels may take the weight of '{fast[0]}' ({len(fast)} such writers) without "
                "calling the module, so that the adapter has no effect there; merge it (merge_and_unload) "
                "before such kernels run"
            )
        stored = (stored.name for target in self.targets for stored in target.writer.weights)
        quantised = [name for name in stored if locate(self.checkpoint, name).encoding != "plain"]
        if quantised:
            said.append(
                f"'{quantised[0]}' ({len(quantised)} such writers) is quantised: the adapter is exact "
                "on top of it, and merging rounds; load the model dequantised to merge"
            )
        return tuple(said)

    def config(self, base: str) -> dict[str, object]:
        """adapter_config.json. Names are whole, so that no other tower's module of the same last
        name is meant.
        """
        # PEFT says of each parameter with a rank of its own that it ignores the rank, which it does
        # not.
        counted = Counter((self.parameters or self.modules).values())
        usual = max(sorted(counted), key=lambda rank: counted[rank])
        other = {name: rank for name, rank in {**self.modules, **self.parameters}.items() if rank != usual}
        own = all(name.rpartition(".")[0] in {t.owner for t in self.targets} for name in self.vectors)
        biases = "none" if not self.vectors or self.lora_bias else "lora_only" if own else "all"
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base or None,
            "inference_mode": True,
            "r": usual,
            "lora_alpha": usual,
            "rank_pattern": other,
            "alpha_pattern": other,
            "lora_dropout": 0.0,
            "use_rslora": False,
            "use_dora": self.dora,
            "bias": biases,
            "lora_bias": self.lora_bias,
            "fan_in_fan_out": any(target.form == "conv1d" for target in self.targets),
            "target_modules": sorted(self.modules),
            **({"target_parameters": sorted(self.parameters)} if self.parameters else {}),
            "modules_to_save": None,
        }
