"""Models whose weights accelerate keeps in memory or on disk until their module is called: as on a
card that is too small, with the CPU in the place of the card.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest.mock import patch

import torch
from tiny_chat import scratch

__all__ = ["Place", "offloading"]

Place = Literal["memory", "disk"]


@contextmanager
def offloading(place: Place) -> Iterator[list[torch.nn.Module]]:
    """transformers loads every model with its weights offloaded. Yields the models."""
    from accelerate import cpu_offload
    from transformers import PreTrainedModel

    load = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
    models: list[torch.nn.Module] = []

    def load_offloaded(cls: Any, *args: Any, device_map: Any = None, **options: Any) -> Any:
        if place == "disk":
            device_map = {"": "disk"}
            options["offload_folder"] = folder
        loaded = load(cls, *args, device_map=device_map, **options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if place == "memory":
            cpu_offload(model, execution_device="cpu")
        assert any(value.is_meta for value in model.parameters())
        models.append(model)
        return loaded

    # Beyond the block: the models read from it.
    folder = str(scratch())
    with patch.object(PreTrainedModel, "from_pretrained", classmethod(load_offloaded)):
        yield models
