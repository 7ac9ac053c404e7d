"""How many models are in memory whenever another is loaded, whole or block by block."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

from torch import nn

from vectomy.architecture import architecture_of
from vectomy.models.layerwise import LayerwiseModel

__all__ = ["counting_layerwise_models", "counting_models"]


@contextmanager
def counting_models() -> Iterator[list[int]]:
    """Yields a list that gets a number at each load: the models of earlier loads that are alive,
    less those that kept nothing but embeddings and head (`ChatModel.drop_blocks`).
    """
    from transformers import PreTrainedModel

    load = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
    alive: WeakSet[nn.Module] = WeakSet()
    counts: list[int] = []

    def load_counted(cls: Any, *args: Any, **options: Any) -> Any:
        # What only cycles hold is freed before memory runs out.
        gc.collect()
        counts.append(sum(_has_blocks(model) for model in alive))
        loaded = load(cls, *args, **options)
        alive.add(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    with patch.object(PreTrainedModel, "from_pretrained", classmethod(load_counted)):
        yield counts


@contextmanager
def counting_layerwise_models() -> Iterator[list[int]]:
    """The same of models that are read block by block: of each, the head and some blocks stay in
    memory.
    """
    allow = LayerwiseModel.allow_passes
    alive: WeakSet[LayerwiseModel] = WeakSet()
    counts: list[int] = []

    def allow_counted(stream: LayerwiseModel) -> None:
        gc.collect()
        counts.append(len(alive))
        alive.add(stream)
        allow(stream)

    with patch.object(LayerwiseModel, "allow_passes", allow_counted):
        yield counts


def _has_blocks(model: nn.Module) -> bool:
    block = model.get_submodule(architecture_of(model).block(0))
    return not any(value.is_meta for value in block.parameters())
