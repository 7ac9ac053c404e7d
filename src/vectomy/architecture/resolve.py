"""Match a model's configuration and tensors to a family, and refuse what is not known by name."""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from vectomy.architecture.families import FAMILIES, REFUSED, Family, wrap_text_model
from vectomy.architecture.readers import EXTRA_HEADS, IGNORED, OUTSIDE_BLOCKS, READERS
from vectomy.architecture.writers import Writer, renamed, writers_of
from vectomy.core.errors import ArchitectureError, CheckpointError
from vectomy.core.types import Component

__all__ = ["Architecture", "architecture_of", "resolve"]

Shapes = Mapping[str, Sequence[int]]
# Mixing tokens, and not: a layer has one of each, unless its family says otherwise.
MIXERS = frozenset({"attention", "linear_attention", "ssm", "conv"})
# Larger numbers than any model has, read as damage.
LIMIT = 1 << 40
_NUMBER = re.compile(r"\.\d+\.")


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
        return renamed(name, self.layout)

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
        own = self._by_layer
        found = writers_of(self.family, self.layout, None, "", self.shapes, own[None])
        for slot in self.family.embeddings:
            if slot.component not in {writer.component for writer in found}:
                raise CheckpointError(
                    f"the checkpoint lacks '{self.stored(slot.live_weight)}', which a {self.model_type} model has; was the download complete?"
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
                    f"there is no {component} at layer {layer}; this model has layers 0 to {self.n_layers - 1}"
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
    def _by_layer(self) -> dict[int | None, list[str]]:
        """Stored tensor names by block; None for those of no block."""
        block = re.compile(re.escape(self.stored(f"{self.family.blocks}.")) + r"(\d+)\.")
        own: dict[int | None, list[str]] = defaultdict(list)
        for name in self.shapes:
            found = block.match(name)
            own[None if found is None or len(found[1]) > 6 else int(found[1])].append(name)
        return own

    def _check_layer(self, layer: int, writers: list[Writer]) -> None:
        kinds = {writer.component in MIXERS for writer in writers}
        if not kinds or (len(kinds) < 2 and not self.family.single):
            missing = [slot for slot in self.family.slots if (slot.component in MIXERS) not in kinds]
            names = " or ".join(
                f"'{self.stored(f'{self.block(layer)}.{slot.live_weight}')}'" for slot in missing
            )
            raise CheckpointError(
                f"the checkpoint lacks {names}, which layer {layer} has to have; was the download complete?"
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
                    own.startswith(beside) for own in self._by_layer[layer]
                ):
                    raise CheckpointError(f"the checkpoint lacks '{whole}'; was the download complete?")

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
                written |= {_NUMBER.sub(".0.", name[start:]) for name in (*writer.tensors, *norms)}
        alike: dict[frozenset[str], int] = {}
        for layer in have:
            start = len(self.stored(self.block(layer)))
            read = frozenset(_NUMBER.sub(".0.", name[start:]) for name in self._by_layer[layer]) - written
            first = alike.setdefault(read, layer)
            for one, other in ((first, layer), (layer, first)):
                for name in sorted(have[one] - have[other]):
                    raise CheckpointError(
                        f"the checkpoint lacks '{self.stored(self.block(other))}{name}': layer {other} is like layer {one}, which has it; was "
                        "the download complete?"
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
            numbers = {int(found[1]) for name in self._by_layer[layer] if (found := parts.match(name))}
            there = {stored.expert for stored in writer.weights}
            for number in sorted((numbers | set(range(most))) - there):
                raise CheckpointError(
                    f"the checkpoint lacks '{prefix}.{number}.{rest}'; was the download complete?"
                )

    def _check_shapes(self, writer: Writer) -> None:
        for stored in writer.weights:
            shape = self.shapes[stored.name]
            wide = stored.axis < len(shape) and shape[stored.axis] == self.d_model
            rows = writer.component != "embedding" or len(shape) != 2 or shape[0] >= self.vocab
            if not wide or len(shape) < 2 or not rows:
                promised = (
                    f"[{self.vocab}, {self.d_model}]"
                    if writer.component == "embedding"
                    else f"{self.d_model} on axis {stored.axis}"
                )
                raise CheckpointError(
                    f"'{stored.name}' has shape {list(shape)!s:.120}; config.json promises {promised}"
                )
        for stored in writer.biases:
            if list(self.shapes[stored.name][-1:]) != [self.d_model]:
                raise CheckpointError(
                    f"'{stored.name}' has shape {list(self.shapes[stored.name])!s:.120}; config.json promises width {self.d_model}"
                )
        for passed in writer.norms:
            if passed.norm.learned and list(self.shapes.get(passed.weight, ())) != [self.d_model]:
                raise CheckpointError(
                    f"the checkpoint holds no '{passed.weight}' of width {self.d_model}, the norm between '{writer.module}' and the stream"
                )

    def check_covered(self) -> None:
        """Hold every tensor against what is known of the family.

        Raises:
            ArchitectureError: a tensor that is no known writer or reader; it might write to the
                stream.
            CheckpointError: a writer that is missing; transformers would fill it with random
                numbers.
        """
        known = {name for writer in self.writers for name in writer.tensors}
        outside = dict(self.aside)
        if not self.tied and self.head not in self.shapes:
            raise CheckpointError(
                f"the checkpoint lacks '{self.head}', and config.json says that it is not tied to the embedding; was the download complete?"
            )
        for layer, names in self._by_layer.items():
            if layer is not None and layer >= self.n_layers + self.extra_layers:
                raise ArchitectureError(
                    f"tensor '{names[0]}' belongs to layer {layer}, but config.json says {self.n_layers} layers"
                )
            start = len(self.stored(f"{self.family.blocks}.{layer}.")) if layer is not None else 0
            for name in names:
                if name in known or name in outside:
                    continue
                if not (
                    _reads(name[start:], self.family.reads)
                    if layer is not None
                    else _is_outside(name, self.head, self.family.outside)
                ):
                    raise ArchitectureError(
                        f"tensor '{name}' is not known for model type '{self.model_type}': it might write to the residual "
                        "stream, so no edit is made; add it to architecture/readers.py if it only reads"
                    )

    @cached_property
    def aside(self) -> tuple[tuple[str, str], ...]:
        """Tensors that no edit touches though they could write somewhere, each with the reason."""
        said = []
        inside = (self.family.blocks, *(slot.module for slot in self.family.embeddings))
        root = self.stored(f"{self.family.blocks.rpartition('.')[0]}.")
        text = (
            *(self.stored(f"{name}.") for name in inside),
            self.head,
            *([root] if root != "model." else []),
        )
        heads = f"{self.family.head.rpartition('.')[2]}.weight"
        for layer, names in self._by_layer.items():
            behind = layer is not None and self.n_layers <= layer < self.n_layers + self.extra_layers
            for name in names:
                if behind or (layer is None and _matches(name, EXTRA_HEADS)):
                    said.append((name, "part of a head that predicts more tokens, behind the stream"))
                elif (
                    layer is None
                    and self.family.multimodal
                    and not name.startswith(text)
                    and not name.endswith(heads)
                    and not _is_outside(name, self.head, self.family.outside)
                ):
                    said.append((name, "part of another tower, which writes at the places of its own tokens"))
        return tuple(said)


@lru_cache(maxsize=1 << 14)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return _compiled(patterns).fullmatch(name) is not None


def _reads(name: str, more: tuple[str, ...]) -> bool:
    # Expert numbers make no difference: one match serves all.
    return _reads_like(_NUMBER.sub(".0.", name), more)


@lru_cache(maxsize=1 << 14)
def _reads_like(name: str, more: tuple[str, ...]) -> bool:
    return _matches(name, READERS + IGNORED + more)


def _is_outside(name: str, head: str, more: tuple[str, ...]) -> bool:
    return name in (head, f"{head.removesuffix('.weight')}.bias") or _matches(name, OUTSIDE_BLOCKS + more)


def resolve(config: Mapping[str, Any], shapes: Shapes | None = None, *, live: bool = False) -> Architecture:
    """The architecture that a config.json describes, with the tensors that its checkpoint has.

    Without `shapes` the writers are not known, only family and sizes; one that config.json leaves
    to transformers' default (Gemma 3's vocabulary) is 0 then. `live`: they are the parameters of a
    model, under the names that transformers gives them.

    Raises:
        ArchitectureError: its model_type is not known or cannot be edited exactly, or a size is
            missing or no positive integer.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if isinstance(model_type, str) and model_type in REFUSED:
        raise ArchitectureError(
            f"a model of type '{model_type}' cannot be edited exactly: {REFUSED[model_type]}"
        )
    if family is None:
        raise ArchitectureError(
            f"model type {str(model_type)!r:.80} is not known, so its residual writers are not either; known: {', '.join(sorted(FAMILIES))}"
        )
    text = config.get(family.nested) if family.nested else config
    text = text if isinstance(text, Mapping) else config
    if family.wraps_text_model:
        inner = FAMILIES.get(str(text.get("model_type")))
        if inner is not None:
            family = wrap_text_model(inner, family.wraps_text_model, *family.layouts[:-1])
        elif "model_type" in text:
            raise ArchitectureError(
                f"the text model of this {model_type} model is of type {str(text['model_type'])!r:.80}, which is not known; known: "
                f"{', '.join(sorted(FAMILIES))}"
            )
    sizes = _Sizes(family, text, shapes or {})
    layout = () if live else sizes.layout
    for key, value, reason in family.refused_if:
        said = text.get(key)
        if said == value or (value is ... and said is not None and said != sizes.d_model):
            raise ArchitectureError(
                f"this {model_type} model ({key} = {said!r:.80}) cannot be edited exactly: {reason}"
            )
    extra = text.get("num_nextn_predict_layers", 0)
    return Architecture(
        model_type=str(model_type),
        family=family,
        d_model=sizes.d_model,
        n_layers=sizes.n_layers,
        vocab=sizes.vocab,
        tied=_tied(
            config,
            text,
            family,
            None if live or not shapes else renamed(f"{family.head}.weight", layout) in shapes,
        ),
        shapes=shapes or {},
        layout=layout,
        extra_layers=extra if type(extra) is int and 0 < extra < 100 else 0,
    )


def _tied(config: Mapping[str, Any], text: Mapping[str, Any], family: Family, stored: bool | None) -> bool:
    """Whether the head's weight is the embedding's, as transformers loads it; `stored`: the
    checkpoint holds a head.

    Of a multimodal configuration only the top counts, and what it leaves out has a default for each
    type. A head that is not stored is tied by any of them, and one that is and differs is not.
    """
    said = config.get("tie_word_embeddings")
    inner = said if said is not None else text.get("tie_word_embeddings")
    if stored is None:
        return bool(family.tied_by_default if inner is None else inner)
    return bool(inner) or (said is None and not stored)


@dataclass
class _Sizes:
    """Sizes from config.json; where it leaves one to transformers' default, from the tensors."""

    family: Family
    text: Mapping[str, Any]
    shapes: Shapes

    @cached_property
    def layout(self) -> tuple[tuple[str, str], ...]:
        live = self.family.embeddings[0].live_weight
        return next(
            (layout for layout in self.family.layouts if renamed(live, layout) in self.shapes),
            self.family.layouts[0],
        )

    @property
    def d_model(self) -> int:
        return self._size("hidden_size", self._embedding(1))

    @property
    def vocab(self) -> int:
        return self._size("vocab_size", self._embedding(0))

    @property
    def n_layers(self) -> int:
        block = re.compile(re.escape(renamed(f"{self.family.blocks}.", self.layout)) + r"(\d{1,6})\.")
        numbers = [int(found[1]) for name in self.shapes if (found := block.match(name))]
        return self._size("num_hidden_layers", max(numbers) + 1 if numbers else None)

    def _embedding(self, axis: int) -> int | None:
        shape = self.shapes.get(renamed(self.family.embeddings[0].live_weight, self.layout), ())
        return shape[axis] if len(shape) == 2 else None

    def _size(self, key: str, counted: int | None) -> int:
        own = self.family.names.get(key, key)
        name = next((name for name in (own, key) if name in self.text), None)
        if name is None and not self.shapes:
            return 0
        value = counted if name is None else self.text[name]
        if type(value) is not int or not 0 < value < LIMIT:
            raise ArchitectureError(
                f"config.json says {name or own} = {value!r:.80}; a positive integer is needed"
            )
        return value


_LIVE: WeakKeyDictionary[nn.Module, Architecture] = WeakKeyDictionary()


def architecture_of(model: nn.Module) -> Architecture:
    """The architecture of a live transformers model, from its own configuration and parameters."""
    found = _LIVE.get(model)
    if found is None:
        config: Any = model.config
        shapes = {name: tuple(value.shape) for name, value in _parameters(model)}
        found = _LIVE[model] = resolve(config.to_dict(), shapes, live=True)
    return found


def _parameters(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return model.named_parameters(remove_duplicate=False)
