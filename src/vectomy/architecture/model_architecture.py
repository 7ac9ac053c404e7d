"""The architecture of one model: its family, sizes and writers, checked for completeness."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vectomy.architecture.families import Family
from vectomy.architecture.missing_tensor import explain_missing
from vectomy.architecture.writers import Writer, rename_tensor, writers_of
from vectomy.core.component import Component
from vectomy.core.errors import ArchitectureError, CheckpointError
from vectomy.core.json_value import JsonValue

__all__ = ["MIXERS", "NUMBER", "OTHER_CONFIG", "Architecture", "Shapes"]

Shapes = Mapping[str, Sequence[int]]
"""Shapes of tensors by name."""
# Writers that mix tokens: a layer has one that does and one that does not, unless its family says
# otherwise.
MIXERS = frozenset({"attention", "linear_attention", "ssm", "conv"})
OTHER_CONFIG = "config.json and the weights are of different models: take both from one release"
# The number of a layer or an expert in a tensor's name.
NUMBER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Architecture:
    """A model's place in the table: its family, its sizes, and the tensors that it has."""

    model_type: str
    family: Family
    d_model: int
    n_layers: int
    vocab: int
    tied: bool
    """The head's weight is the embedding's."""
    shapes: Shapes = field(repr=False, hash=False, compare=False)
    """Of all tensors, as they are stored (or as the live model holds them)."""
    layout: tuple[tuple[str, str], ...] = ()
    extra_layers: int = 0
    """Blocks behind the last one that predict more tokens, and are no part of the stream."""
    text_config: Mapping[str, JsonValue] | None = field(default=None, repr=False, hash=False, compare=False)
    """What shapes are compared with (tensor_shapes.py); None where they are not."""
    strict: bool = False
    """Every tensor has to be known: those of a live model, of a GGUF file, of code that the
    checkpoint brings. Otherwise transformers leaves out tensors that no module of its class takes.
    """

    def block(self, layer: int) -> str:
        """Module path of a block in the live model. Raises ArchitectureError for a layer that the
        model lacks.
        """
        if not 0 <= layer < self.n_layers:
            raise ArchitectureError(
                f"there is no layer {layer}; this model has layers 0 to {self.n_layers - 1}"
            )
        return f"{self.family.blocks}.{layer}"

    def stored(self, name: str) -> str:
        """What the checkpoint calls a live parameter outside of writers."""
        return rename_tensor(name, self.layout)

    @property
    def head(self) -> str:
        """The head's weight in the checkpoint, whether it is there or tied."""
        return self.stored(f"{self.family.head}.weight")

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """Every writer, in the order in which they write.

        Raises:
            CheckpointError: a layer lacks one that its family has, or a writer's shape is not what
                config.json promises.
        """
        own = self.tensors_by_layer
        found = writers_of(self.family, self.layout, None, "", self.shapes, own[None])
        for slot in self.family.embeddings:
            if slot.component not in {writer.component for writer in found}:
                name = self.stored(slot.live_weight)
                raise CheckpointError(
                    f"the checkpoint lacks '{name}', which a {self.model_type} model has; "
                    f"{self._explain(name)}"
                )
        for layer in range(self.n_layers):
            here = writers_of(
                self.family, self.layout, layer, f"{self.block(layer)}.", self.shapes, own[layer]
            )
            self._check_layer(layer, here)
            self._check_shared(layer, here)
            found += here
        for writer in found:
            self._check_shapes(writer)
        self._check_alike(found)
        self._check_experts(found)
        return tuple(found)

    def writer(self, component: Component, layer: int | None) -> Writer:
        """Raises ArchitectureError for a component or layer that this model lacks."""
        found = self._places.get((component, layer))
        if found is None:
            if layer is not None and not 0 <= layer < self.n_layers:
                raise ArchitectureError(
                    f"there is no {component} at layer {layer}; this model has layers 0 to "
                    f"{self.n_layers - 1}"
                )
            there = sorted({w.component for w in self.writers if w.layer == layer})
            where = "in front of the first block" if layer is None else f"at layer {layer}"
            raise ArchitectureError(
                f"there is no {component} {where}; this {self.model_type} model has {', '.join(there)} there"
            )
        return found

    def at(self, layer: int | None) -> list[Writer]:
        return [writer for writer in self.writers if writer.layer == layer]

    @cached_property
    def _places(self) -> dict[tuple[Component, int | None], Writer]:
        return {(writer.component, writer.layer): writer for writer in self.writers}

    @cached_property
    def tensors_by_layer(self) -> dict[int | None, list[str]]:
        """Stored tensor names by block; None for those of no block."""
        block = re.compile(re.escape(self.stored(f"{self.family.blocks}.")) + r"(\d+)\.")
        own: dict[int | None, list[str]] = defaultdict(list)
        for name in self.shapes:
            found = block.match(name)
            own[None if found is None or len(found[1]) > 6 else int(found[1])].append(name)
        return own

    def _explain(self, *missing: str) -> str:
        embedding = self.stored(self.family.embeddings[0].live_weight)
        if self.tied and self.head in self.shapes and embedding in missing:
            return f"only the head '{self.head}' is stored: save the model again, with its embedding"
        return explain_missing(missing, self.shapes)

    def _check_layer(self, layer: int, writers: list[Writer]) -> None:
        kinds = {writer.component in MIXERS for writer in writers}
        if not kinds or (len(kinds) < 2 and not self.family.single):
            stored = {number for number, names in self.tensors_by_layer.items() if names}
            if layer not in stored and stored - {None}:
                raise CheckpointError(
                    f"the checkpoint holds no tensor of layer {layer}, and config.json says {self.n_layers} "
                    f"layers; {OTHER_CONFIG}"
                )
            slots = [slot for slot in self.family.slots if (slot.component in MIXERS) not in kinds]
            missing = [self.stored(f"{self.block(layer)}.{slot.live_weight}") for slot in slots]
            names = " or ".join(f"'{name}'" for name in missing)
            raise CheckpointError(
                f"the checkpoint lacks {names}, which layer {layer} has to have; {self._explain(*missing)}"
            )

    def _check_shared(self, layer: int, writers: list[Writer]) -> None:
        """All that lies beside a shared expert's writer is that expert's, so it says that the
        writer has to be there.
        """
        if any(writer.component == "shared_experts" for writer in writers):
            return
        for slot in self.family.slots:
            for name in (slot.live_weight, *(name for name, _ in slot.stored)):
                whole = self.stored(f"{self.block(layer)}.{name}")
                beside = whole.removesuffix(".weight").rpartition(".")[0] + "."
                if slot.component == "shared_experts" and any(
                    own.startswith(beside) for own in self.tensors_by_layer[layer]
                ):
                    raise CheckpointError(f"the checkpoint lacks '{whole}'; {self._explain(whole)}")

    def _check_alike(self, writers: list[Writer]) -> None:
        """Layers that read the same write the same: one that lacks a writer or norm which another
        such layer has is damaged.
        """
        have: dict[int, set[str]] = {layer: set() for layer in range(self.n_layers)}
        written: set[str] = set()
        for writer in writers:
            if writer.layer is not None:
                start = len(self.stored(self.block(writer.layer)))
                norms = [norm.weight for norm in writer.norms]
                have[writer.layer] |= {name[start:] for name in (self.stored(writer.weight), *norms)}
                written |= {NUMBER.sub(".0.", name[start:]) for name in (*writer.tensors, *norms)}
        alike: dict[frozenset[str], int] = {}
        for layer in have:
            start = len(self.stored(self.block(layer)))
            read = (
                frozenset(NUMBER.sub(".0.", name[start:]) for name in self.tensors_by_layer[layer]) - written
            )
            first = alike.setdefault(read, layer)
            for layer_with, other in ((first, layer), (layer, first)):
                for name in sorted(have[layer_with] - have[other]):
                    whole = f"{self.stored(self.block(other))}{name}"
                    raise CheckpointError(
                        f"the checkpoint lacks '{whole}': layer {other} is like layer {layer_with}, which "
                        f"has it; {self._explain(whole)}"
                    )

    def _check_experts(self, writers: list[Writer]) -> None:
        """Experts that are stored one by one are all there: as many in each layer, and as many as
        there are other parts of.
        """
        counts = {writer.layer: writer for writer in writers if writer.weights[0].expert is not None}
        most = max((len(writer.weights) for writer in counts.values()), default=0)
        for layer, writer in counts.items():
            first = writer.weights[0]
            prefix, _, rest = first.name.rpartition(f".{first.expert}.")
            parts = re.compile(re.escape(prefix) + r"\.(\d+)\.")
            numbers = {int(found[1]) for name in self.tensors_by_layer[layer] if (found := parts.match(name))}
            there = {stored.expert for stored in writer.weights}
            for number in sorted((numbers | set(range(most))) - there):
                whole = f"{prefix}.{number}.{rest}"
                raise CheckpointError(f"the checkpoint lacks '{whole}'; {self._explain(whole)}")

    def _check_shapes(self, writer: Writer) -> None:
        for stored in writer.weights:
            shape = self.shapes[stored.name]
            wide = stored.axis < len(shape) and shape[stored.axis] == self.d_model
            rows = writer.component != "embedding" or len(shape) != 2 or shape[0] >= self.vocab
            # Matrices lie with the stream on axis 0; a stack of experts has it on a later one.
            stacked = len(shape) > 2 and stored.axis == 0
            if not wide or len(shape) < 2 or stacked or 0 in shape or not rows:
                promised = (
                    f"[{self.vocab}, {self.d_model}]"
                    if writer.component == "embedding"
                    else f"{self.d_model} on axis {stored.axis}"
                )
                raise CheckpointError(
                    f"'{stored.name}' has shape {list(shape)!s:.120}; config.json says {promised}; "
                    f"{OTHER_CONFIG}"
                )
        for stored in writer.biases:
            if list(self.shapes[stored.name][-1:]) != [self.d_model]:
                raise CheckpointError(
                    f"'{stored.name}' has shape {list(self.shapes[stored.name])!s:.120}; config.json says "
                    f"width {self.d_model}; {OTHER_CONFIG}"
                )
        for passed in writer.norms:
            if passed.norm.learned and list(self.shapes.get(passed.weight, ())) != [self.d_model]:
                raise CheckpointError(
                    f"the checkpoint holds no '{passed.weight}' of width {self.d_model}, the norm between "
                    f"'{writer.module}' and the stream; {self._explain(passed.weight)}"
                )
