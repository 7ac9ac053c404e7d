"""The strength of a PEFT adapter in a live model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["scale_adapter"]


@contextmanager
def scale_adapter(model: Any, strength: float) -> Iterator[None]:
    """Multiply the scaling of the adapter in `model` (`with_adapter`) for the length of a block; at
    0 the model is the base.
    """
    from peft.helpers import rescale_adapter_scale
    from peft.tuners.tuners_utils import BaseTunerLayer

    if strength != 0.0:
        with rescale_adapter_scale(model, strength):
            yield
        return
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
