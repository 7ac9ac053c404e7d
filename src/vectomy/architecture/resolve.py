"""Match a model's configuration and tensor names to a family, and refuse what is not known by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from vectomy.architecture.families import FAMILIES, Family
from vectomy.errors import ArchitectureError, CheckpointError
from vectomy.types import Component

__all__ = ["Architecture", "Writer", "architecture_of", "resolve"]

# What a module of the known families holds; scales and packed weights are another matter.
LEAVES = ("weight", "bias")


@dataclass(frozen=True)
class Writer:
    """A module whose output is added to the residual stream (or starts it)."""

    component: Component
    layer: int | None
    module: str

    @property
    def weight(self) -> str:
        return f"{self.module}.weight"

    @property
    def bias(self) -> str:
        return f"{self.module}.bias"


@dataclass(frozen=True)
class Architecture:
    model_type: str
    family: Family
    d_model: int
    n_layers: int
    vocab: int
    tied: bool
    """The head's weight is the embedding's."""

    def block(self, layer: int) -> str:
        return f"{self.family.blocks}.{layer}"

    def writer(self, component: Component, layer: int | None) -> Writer:
        """Raises ArchitectureError for a component or layer that this model lacks."""
        if component == "embedding":
            return Writer(component, None, self.family.embedding)
        if layer is None or not 0 <= layer < self.n_layers:
            raise ArchitectureError(
                f"there is no {component} at layer {layer}; this model has layers 0 to {self.n_layers - 1}"
            )
        return Writer(component, layer, f"{self.block(layer)}.{getattr(self.family, component)}")

    @property
    def writers(self) -> list[Writer]:
        """Every writer, in the order in which they write."""
        blocks = [self.writer(c, layer) for layer in range(self.n_layers) for c in ("attention", "mlp")]
        return [self.writer("embedding", None), *blocks]

    def check_covered(self, tensors: Collection[str]) -> None:
        """Hold the tensors of a checkpoint against what the family has.

        Raises:
            ArchitectureError: a tensor that is no known writer or reader; it might write to the stream.
            CheckpointError: one that is missing; transformers would fill it with random numbers.
        """
        family = self.family
        outside = {family.embedding, family.final_norm, family.head}
        inside = {family.attention, family.mlp, *family.readers}
        block = re.compile(re.escape(family.blocks) + r"\.(\d+)\.(.+)")
        for tensor in tensors:
            found = block.fullmatch(tensor)
            if found is not None and int(found[1]) >= self.n_layers:
                raise ArchitectureError(
                    f"tensor '{tensor}' belongs to layer {found[1]}, but config.json says {self.n_layers} layers"
                )
            module, _, leaf = (tensor if found is None else found[2]).rpartition(".")
            known = leaf in LEAVES and module in (outside if found is None else inside)
            if not known and not (found is not None and found[2] in family.ignored):
                raise ArchitectureError(
                    f"tensor '{tensor}' is not known for model type '{self.model_type}': it might write to the residual "
                    "stream, so no edit is made; add it to architecture/families.py if it only reads"
                )
        blocks = (f"{self.block(layer)}.{name}" for layer in range(self.n_layers) for name in sorted(inside))
        for module in (family.embedding, family.final_norm, *([] if self.tied else [family.head]), *blocks):
            if f"{module}.weight" not in tensors:
                raise CheckpointError(
                    f"the checkpoint lacks '{module}.weight', which a {self.model_type} model has; was the download complete?"
                )


def resolve(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a config.json describes.

    Raises:
        ArchitectureError: its model_type is not known, or a size is missing or no positive integer.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise ArchitectureError(
            f"model type '{model_type}' is not known, so its residual writers are not either; known: {', '.join(sorted(FAMILIES))}"
        )

    if config.get("quantization_config"):
        method = (
            dict(config["quantization_config"]).get("quant_method")
            if isinstance(config["quantization_config"], Mapping)
            else None
        )
        raise ArchitectureError(
            f"the model is quantised (quantization_config with method '{method}'), and packed weights cannot be edited exactly; use "
            "its bfloat16, float16 or float32 version"
        )

    def size(key: str) -> int:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ArchitectureError(f"config.json says {key} = {value!r}; a positive integer is needed")
        return value

    return Architecture(
        model_type=str(model_type),
        family=family,
        d_model=size("hidden_size"),
        n_layers=size("num_hidden_layers"),
        vocab=size("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", family.tied_by_default)),
    )


def architecture_of(model: nn.Module) -> Architecture:
    """The architecture of a live transformers model, from its own configuration."""
    config: Any = model.config
    return resolve(config.to_dict())
