"""How many models are in memory whenever transformers loads another."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

from torch import nn

from vectomy.architecture import architecture_of

__all__ = ["counting_models"]


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


def _has_blocks(model: nn.Module) -> bool:
    block = model.get_submodule(architecture_of(model).block(0))
    return not any(value.is_meta for value in block.parameters())
