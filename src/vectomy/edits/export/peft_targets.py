"""How PEFT wraps each writer of an Edit, and what of an Edit it cannot hold.

Read off PEFT's code, 0.21 (https://github.com/huggingface/peft), checked against it by
tests/edits/test_peft_adapter.py. Three facts decide: all modules of an adapter share one
configuration; a parameter that is no module's `weight` (fused experts) goes by `target_parameters`,
which take neither DoRA nor biases; and tied weights stay tied when an adapter is merged.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from vectomy.architecture import Architecture, Writer
from vectomy.core.errors import EditError
from vectomy.edits.edit import Edit, Operation

__all__ = ["NOT_TRANSPOSED", "Form", "PeftTarget", "targets_of"]

# PEFT's own refusal (peft/tuners/tuners_utils.py, _check_lora_target_modules_mamba).
NO_OUT_PROJ = frozenset({"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"})
# When it loads an adapter, PEFT renames its tensors as transformers does a checkpoint's, those with
# their new names too.
RENAMED = {("laguna", "shared_experts")}
# Experts stored [expert, d_ff, d_model] that do not say so (`is_transposed`): PEFT takes the middle
# axis for the output.
NOT_TRANSPOSED = frozenset({"llama4", "llama4_text"})

Form = Literal["linear", "conv1d", "embedding", "parameter", "experts"]
"""How PEFT wraps a writer: a module of one of three kinds, a matrix that is not a module of its
own, a stack of them.
"""


@dataclass(frozen=True)
class PeftTarget:
    """One writer, with what is done to it (several operations where each has another expert)."""

    writer: Writer
    operations: tuple[Operation, ...]
    form: Form

    @property
    def owner(self) -> str:
        """The module that PEFT wraps."""
        return self.writer.weight.rpartition(".")[0]

    @property
    def has_bias(self) -> bool:
        """A bias that `lora_bias` can hold: the wrapped module's own, and no other behind it."""
        behind = any(passed.norm.centred for passed in self.writer.norms)
        return self.form in ("linear", "conv1d") and self.writer.bias == f"{self.owner}.bias" and not behind


def targets_of(edit: Edit, arch: Architecture) -> list[PeftTarget]:
    """The writers of an adapter, each with its operations.

    Raises:
        EditError: an operation that no adapter can hold, or none at all.
    """
    found = [
        PeftTarget(writer := pairs[0][0], tuple(operation for _, operation in pairs), _form(writer, arch))
        for _, group in itertools.groupby(edit.writers(arch), key=lambda pair: pair[0].weight)
        for pairs in [list(group)]
    ]
    if not found:
        raise EditError(
            "the edit changes nothing, and an adapter has at least one module of rank 1; use the base model"
        )
    dora = any(operation.norm == "row" for target in found for operation in target.operations)
    for target in found:
        for operation in target.operations:
            _check(target, operation, arch, dora)
    return found


def _form(writer: Writer, arch: Architecture) -> Form:
    stored = writer.weights[0]
    if stored.expert is not None or len(arch.shapes[stored.name]) == 3:
        return "experts"
    if writer.component == "embedding":
        return "embedding"
    if writer.component == "position":
        # Modules of this name (OPT's) look rows up at an offset, which LoRA on an embedding does
        # not.
        return "parameter" if writer.module.endswith("embed_positions") else "embedding"
    if writer.weight != f"{writer.module}.weight":
        return "parameter"
    if writer.slot.axis == 1:
        return "conv1d"
    # Of models with experts PEFT takes a module named down_proj for one of them, as transformers 4
    # had them, and would change all experts instead (peft/utils/transformers_weight_conversion.py).
    # By its weight it is only itself.
    fused = any(slot.module == "mlp.experts" for slot in arch.family.slots)
    return "parameter" if fused and writer.module.endswith(".down_proj") else "linear"


def _check(target: PeftTarget, operation: Operation, arch: Architecture, dora: bool) -> None:
    """Raises EditError for an operation that an adapter cannot hold exactly."""
    name, module = operation.writer_name, target.writer.module
    if operation.norm == "column" and operation.strengths.any():
        raise EditError(
            f"{name}: norm mode column rescales every column of '{target.writer.weight}', a change of full "
            "rank that no adapter holds; use norm mode none, or bake the edit"
        )
    if dora and target.form in ("parameter", "experts"):
        raise EditError(
            f"{name}: norm mode row makes the adapter DoRA, which PEFT does not have for "
            f"'{target.writer.weight}', a parameter without a module of its own; use norm mode none, "
            "leave such writers out, or bake the edit"
        )
    if target.writer.component == "embedding" and arch.tied:
        raise EditError(
            f"{name}: '{target.writer.weight}' is tied to the head, and PEFT merges an adapter into both; "
            "leave the embedding alone (embeddings=False, --no-embeddings), or bake the edit, which "
            "unties the head"
        )
    if arch.model_type in NO_OUT_PROJ and module.endswith(".out_proj"):
        raise EditError(
            f"{name}: PEFT takes no adapter on '{module}' of a {arch.model_type} model; leave such writers "
            "out, or bake the edit"
        )
    if (arch.model_type, target.writer.component) in RENAMED or target.writer.slot.flat:
        raise EditError(
            f"{name}: PEFT loses or cannot run an adapter on '{target.writer.weight}' of a "
            f"{arch.model_type} model; leave such writers out, or bake the edit"
        )
    if operation.addition is not None and target.writer.component == "experts":
        raise EditError(
            f"the edit adds a vector to {name}, where the router scales a bias with its expert, token by "
            "token; use it as hooks"
        )
    if operation.addition is not None and not target.writer.biases:
        raise EditError(
            f"the edit adds a vector to {name}, but '{module}' has no bias to hold it; use it as hooks"
        )
