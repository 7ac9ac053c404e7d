"""Bake an Edit into a checkpoint: the edited copy of a model folder, one tensor in memory at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Architecture, TensorRef, Writer, check_covered
from vectomy.checkpoint import Checkpoint, ModelSource, architecture_in, rewrite
from vectomy.checkpoint.change import Added, Change
from vectomy.checkpoint.quantization import (
    OTHER_FILES,
    PackedWeight,
    check_supported,
    decode,
    drop_quantization,
    integer_weights,
    locate,
    requantize,
)
from vectomy.checkpoint.reader import TORCH_DTYPES
from vectomy.core import linalg
from vectomy.core.arguments import require_path
from vectomy.core.component import OUTSIDE
from vectomy.core.errors import EditError
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress, automatic
from vectomy.core.types import Vector
from vectomy.edits.edit import Edit, Operation
from vectomy.edits.export.receipt import Receipt
from vectomy.edits.operation import fold_operation

__all__ = ["Baking", "bake", "bake_writer", "decode_made"]


def bake(
    edit: Edit | str | Path,
    checkpoint: ModelSource,
    out: str | Path,
    *,
    link_untouched: bool = False,
    progress: Progress = automatic,
) -> Receipt:
    """Write the edited copy of a model folder to the new folder `out`.

    The result computes what `edit.hooks(model)` computes. An edit of a tied embedding unties the
    head, which keeps its old values. Quantised writers are decoded, edited and stored again in
    their own format; all other tensors keep their bytes. A checkpoint of integers in groups (GPTQ,
    AWQ) becomes an ordinary one: all its weights are decoded, in the dtype of their scales.

    Args:
        link_untouched: make hard links to the source's shards that the edit does not change.

    Returns:
        The receipt: every writer, edited or left. Nothing is measured yet (`verify`).

    Raises:
        FingerprintError: the folder is not the edit's base.
        ArchitectureError: the role of a tensor is not known.
        EditError: an addition to a writer that has no bias.
        ArtifactError: `out` exists.
        CheckpointError: the folder is incomplete or damaged.
        DiskFullError: there is no room for the copy.
    """
    edit = Edit.of(edit)
    require_path(out, "the folder `out`")
    opened = Checkpoint.of(checkpoint)
    arch = architecture_in(opened)
    check_covered(arch)
    edit.check_base(opened)
    baking = Baking(opened, arch)
    for writer, operation in edit.writers(arch):
        baking.add(writer, operation)
    untied, tie, notes = baking.untie_head()
    baking.write_plain()
    added = {**baking.added, **baking.plain, **untied}
    config, dropped_keys = baking.change_config(tie)
    notes = [*baking.notes, *notes, *opened.notes]
    # The base's card does not describe an edited model.
    omit = ["README.md"] if baking.changes and "README.md" in opened.sidecars else []
    if omit:
        notes.append("left behind: README.md, which describes the base")
    if baking.dropped:
        omit += [name for name in OTHER_FILES if name in opened.sidecars]
    said = rewrite(
        opened,
        out,
        baking.changes,
        added=added,
        config=config or None,
        dropped=baking.dropped,
        dropped_keys=dropped_keys,
        omit=omit,
        link_untouched=link_untouched,
        purpose=edit.sha256,
        progress=progress,
    )
    receipt = Receipt.of(
        opened,
        arch,
        baking.edited,
        notes=(*notes, *said),
        errors=baking.errors,
        added=baking.given_biases,
    )
    return receipt.with_non_finite(baking.non_finite)


@dataclass
class Baking:
    """The changes that an edit makes to a checkpoint's tensors."""

    checkpoint: Checkpoint
    arch: Architecture
    changes: list[Change] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    """Logical names."""
    errors: dict[str, float] = field(default_factory=dict)
    """By quantised weight, what storing it again cost, relative to its length."""
    added: dict[str, Added] = field(default_factory=dict)
    given_biases: dict[str, str] = field(default_factory=dict)
    """New biases that hold an added vector, by the logical name of their writer's weight."""
    plain: dict[str, Added] = field(default_factory=dict)
    """Weights that are stored as integers in groups and written as plain tensors."""
    dropped: list[str] = field(default_factory=list)
    """The tensors of those weights."""
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    non_finite: dict[str, None] = field(default_factory=dict)
    """Tensors whose new values are NaN or infinite; known once their changes are made."""
    # Changes of one fused tensor by several operations, each of another expert, become one.
    _experts: dict[str, dict[int | None, EditAlong]] = field(default_factory=dict)

    def add(self, writer: Writer, operation: Operation) -> None:
        basis, strengths = fold_operation(self.checkpoint, writer, operation)
        if operation.addition is not None and not writer.biases:
            self._give_bias(writer, operation, operation.addition)
        elif operation.addition is not None and writer.component == "experts":
            raise EditError(_no_bias(writer, operation))
        if operation.strengths.any():
            for stored in writer.weights:
                if stored.expert is None or operation.expert in (None, stored.expert):
                    self._weight(writer, stored, operation, basis, strengths)
        for stored in writer.biases:
            # A bias that all experts share is no single one's.
            shared = stored.expert is None and len(self.arch.shapes[stored.name]) == 1
            if operation.expert in (None, stored.expert) or (stored.expert is None and not shared):
                self._bias(stored, operation, basis, strengths)
        norm = writer.biased_norm
        if norm is not None and operation.strengths.any():
            self._bias(TensorRef(norm.bias, 0), operation, operation.basis, operation.strengths)

    def named_changes(self) -> list[tuple[str, Change]]:
        """Each change with the logical name of the tensor that it makes."""
        old = [change for change in self.changes if change.tensors[0] not in self.added]
        new = [change for change in self.changes if change.tensors[0] in self.added]
        return [
            *zip(self.edited, old, strict=True),
            *((change.tensors[0], change) for change in new),
        ]

    def _weight(
        self, writer: Writer, stored: TensorRef, operation: Operation, basis: Tensor, strengths: Tensor
    ) -> None:
        encoded = locate(self.checkpoint, stored.name)
        norm = operation.norm
        axis = encoded.stream_axis(stored.axis)

        def edit(old: Tensor, axis: int) -> Tensor:
            return self._checked(stored.name, linalg.edit_stored(old, axis, basis, strengths, norm))

        alone = operation.expert if stored.expert is None else None
        if alone is not None:
            held = self._experts.setdefault(stored.name, {})
            held[alone] = edit
            if len(held) > 1:
                return  # The change for the first expert covers all experts.
        experts = self._experts.get(stored.name)
        self.edited.append(stored.name)
        if encoded.is_written_plain:
            self.changes.append(self._plain_change(encoded, lambda old: edit(old, axis)))
        elif encoded.encoding != "plain":
            self.changes.append(self._packed_change(encoded, axis, edit, experts))
        elif experts is not None:
            self.changes.append(Change.of(stored.name, lambda old: _edit_experts(old, axis, experts)))
        else:
            rows = axis == 1 and len(encoded.shape) == 2 and writer.component in OUTSIDE
            self.changes.append(Change.of(stored.name, lambda old: edit(old, axis), rows=rows))

    def _packed_change(
        self,
        encoded: PackedWeight,
        axis: int,
        edit: EditAlong,
        experts: Mapping[int | None, EditAlong] | None,
    ) -> Change:
        """The change of a quantised weight: its values and their scales."""
        depth = len(encoded.shape)
        output = axis == depth - 2

        def make(parts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            count = iter(range(encoded.shape[0] if depth == 3 else 1))

            def matrix(old: Tensor) -> Tensor:
                at = next(count)
                own = edit if experts is None else experts.get(at)
                return old if own is None else own(old, axis - (depth - 2))

            recoded = requantize(encoded, parts, matrix, vectors="output" if output else "input")
            self.errors[encoded.name] = recoded.error
            return recoded.parts

        return Change(encoded.parts, make)

    def _plain_change(self, encoded: PackedWeight, make: Callable[[Tensor], Tensor]) -> Change:
        """The change of integers in groups to a plain tensor, in the dtype of their scales."""
        entry = self.checkpoint.tensors[encoded.written_from]
        name, dtype = encoded.name, TORCH_DTYPES[entry.dtype]
        self.plain[name] = Added(entry.shard, entry.dtype, encoded.shape)
        self.dropped += encoded.parts
        return Change(
            (name,), lambda parts: {name: make(decode(encoded, parts).to(dtype))}, reads=encoded.parts
        )

    def write_plain(self) -> None:
        """Write what is left of the integers in groups as plain tensors, too."""
        whole = integer_weights(self.checkpoint)
        rest = [encoded for name, encoded in whole.items() if name not in self.plain]
        self.changes += [self._plain_change(encoded, lambda old: old) for encoded in rest]
        if whole:
            method = check_supported(self.checkpoint.config).method
            self.notes.append(
                f"the weights were stored in {method}, which cannot hold an edit: the edited checkpoint is "
                f"an ordinary one, with {len(whole)} weights decoded"
            )

    def change_config(self, tie: JsonObject) -> tuple[JsonObject, list[str]]:
        """The keys of config.json to set, those of `untie_head` among them, and those to drop."""
        old, changed = self.checkpoint.config, {**self.config, **tie}
        if not self.dropped:
            return changed, []
        new = drop_quantization({**old, **changed})
        changed = {key: value for key, value in new.items() if key not in old or value != old[key]}
        return changed, [key for key in old if key not in new]

    def _bias(self, stored: TensorRef, operation: Operation, basis: Tensor, strengths: Tensor) -> None:
        expert = operation.expert if stored.expert is None else None
        addition = operation.addition

        def change(old: Tensor) -> Tensor:
            work = old.double() if old.dtype == torch.float64 else old.float()
            new = linalg.remove(work, basis.to(work), strengths.to(work))
            new = new if addition is None else new + addition
            if expert is not None:
                new = torch.where((torch.arange(len(old)) == expert)[:, None], new, work)
            return self._checked(stored.name, new.to(old.dtype))

        before = next((made for made in self.changes if made.tensors == (stored.name,)), None)
        if before is None:
            self.edited.append(stored.name)
            self.changes.append(Change.of(stored.name, change))
        else:
            first = before.make
            self.changes[self.changes.index(before)] = Change.of(
                stored.name, lambda old: change(first({stored.name: old})[stored.name])
            )

    def _checked(self, name: str, new: Tensor) -> Tensor:
        """The new values, with a note of their tensor if some are NaN or infinite."""
        if new.is_floating_point() and new.numel() and not all(bool(end.isfinite()) for end in new.aminmax()):
            self.non_finite[name] = None
        return new

    def _give_bias(self, writer: Writer, operation: Operation, addition: Vector) -> None:
        """Add a bias for an added vector where config.json has a flag for it; its siblings in all
        blocks get zeros.
        """
        switch = self.arch.family.bias_flags.get(writer.component)
        if switch is None:
            raise EditError(_no_bias(writer, operation))
        own = f"{self.arch.stored(writer.module)}.bias"
        for layer in range(self.arch.n_layers):
            for module in switch.modules:
                self._zero(self.arch.stored(f"{self.arch.block(layer)}.{module}"))
        dtype = TORCH_DTYPES[self.added[own].dtype]
        zero = next(change for change in self.changes if change.tensors == (own,))
        self.changes[self.changes.index(zero)] = Change((own,), lambda _: {own: addition.to(dtype)})
        self.given_biases[writer.weights[0].name] = own
        if switch.key not in self.config:
            self.config[switch.key] = True
            self.notes.append(
                f"config.json now says {switch.key}: all modules that it covers have biases, which are zero "
                "except for the added vectors"
            )

    def _zero(self, module: str) -> None:
        name, encoded = f"{module}.bias", locate(self.checkpoint, f"{module}.weight")
        weight = self.checkpoint.tensors[encoded.written_from]
        if name in self.added or name in self.checkpoint.tensors:
            return
        if weight.dtype not in TORCH_DTYPES:
            raise EditError(
                f"'{module}' is stored as {weight.dtype} and has no bias to hold the vector that the edit "
                "adds; use it as hooks"
            )
        shape, dtype = encoded.shape[:1], TORCH_DTYPES[weight.dtype]
        self.added[name] = Added(weight.shard, weight.dtype, shape)
        self.changes.append(Change((name,), lambda _: {name: torch.zeros(shape, dtype=dtype)}))

    def untie_head(self) -> tuple[dict[str, Added], JsonObject, list[str]]:
        """Give the head a copy of the unedited embedding where the two are one tensor and the
        embedding is edited.
        """
        embedding, head = self.arch.writer("embedding", None).weights[0].name, self.arch.head
        nested = self.arch.family.nested
        text = self.checkpoint.config.get(nested) if nested else None
        parts = [self.checkpoint.config, *([text] if isinstance(text, Mapping) else [])]
        flag = next((tied for part in parts if (tied := part.get("tie_word_embeddings")) is not None), False)
        # A head of other values is untied already; only config.json may say otherwise.
        wrong = bool(flag) and not self.arch.tied and not self.arch.family.ties_more
        if embedding not in self.edited or not (self.arch.tied or wrong):
            return {}, {}, []
        if self.arch.tied and self.arch.family.ties_more:
            raise EditError(
                f"the edit changes the embedding, which is tied to the head, and a {self.arch.model_type} "
                "model cannot untie the two: its configuration would also untie the blocks that share their "
                "weights. Leave the embedding alone (embeddings=False, --no-embeddings), or use the "
                "edit as hooks"
            )
        note = f"the head was tied to the embedding; it is untied ('{head}' holds the unedited values)"
        if not self.arch.tied:
            note = (
                f"config.json tied '{head}' to '{embedding}', but the checkpoint holds two different ones, "
                "which transformers does not tie; config.json now says so"
            )
        config: dict[str, Any] = {"tie_word_embeddings": False}
        # transformers looks at the top alone; other readers look where the text model's sizes are.
        if isinstance(text, Mapping) and text.get("tie_word_embeddings"):
            config[str(nested)] = {**text, **config}
        if head in self.checkpoint.tensors:
            return {}, config, [note]
        return {head: Added.copy(self.checkpoint.tensors[embedding])}, config, [note]


def _no_bias(writer: Writer, operation: Operation) -> str:
    if writer.component == "experts":
        return (
            f"the edit adds a vector to {operation.writer_name}, where the router scales a bias with its "
            "expert, token by token; use it as hooks"
        )
    return (
        f"the edit adds a vector to {operation.writer_name}, but '{writer.module}' has no bias to hold "
        "it; use it as hooks"
    )


EditAlong = Callable[[Tensor, int], Tensor]


def _edit_experts(old: Tensor, axis: int, experts: Mapping[int | None, EditAlong]) -> Tensor:
    """Single experts of a fused tensor."""
    for number, edit in experts.items():
        assert number is not None
        old[number] = edit(old[number], axis - 1)
    return old


def bake_writer(
    checkpoint: Checkpoint,
    arch: Architecture,
    writer: Writer,
    operation: Operation,
    names: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """What a bake makes of one writer's stored tensors (of those named alone), decoded, by logical
    name; all of them in memory.
    """
    baking = Baking(checkpoint, arch)
    baking.add(writer, operation)
    made: dict[str, Tensor] = {}
    for name, change in baking.named_changes():
        if name in baking.added or (names is not None and name not in names):
            continue
        made[name] = decode_made(checkpoint, name, change.make_from(checkpoint))
    return made


def decode_made(checkpoint: Checkpoint, name: str, made: Mapping[str, Tensor]) -> Float[Tensor, "*shape"]:
    """The new values of a weight, decoded.

    Args:
        checkpoint: the unedited one.
        made: what the weight's Change made of it.
    """
    encoded = locate(checkpoint, name)
    return made[name].float() if encoded.is_written_plain else decode(encoded, made).float()
