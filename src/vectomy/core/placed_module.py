"""Where a module of a live model computes, and its weights where accelerate has moved them away.

A model that is larger than a card has hooks of accelerate: each block runs on its own device, and
offloaded weights are on the device `meta` until their module is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["execution_device", "read_parameter", "replace_offloaded"]


def execution_device(module: nn.Module) -> torch.device:
    """The device that a module computes on: its output is there. The CPU for a module without
    weights, or whose weights are read when it is called (a model read block by block).
    """
    for hook in _hooks(module):
        device = getattr(hook, "execution_device", None)
        if device is not None:
            return torch.device(device)
    # The weights of GPTQ and AWQ are buffers.
    device = next((value.device for value in chain(module.parameters(), module.buffers())), None)
    return torch.device("cpu") if device is None or device.type == "meta" else device


def read_parameter(model: nn.Module, name: str) -> Tensor:
    """A parameter's values, detached; offloaded ones from where they are."""
    parameter = model.get_parameter(name).detach()
    if not parameter.is_meta:
        return parameter
    module, _, own = name.rpartition(".")
    for hook in _hooks(model.get_submodule(module)):
        weights = getattr(hook, "weights_map", None)
        if weights is not None:
            stored: Tensor = weights[own]
            return stored
    return parameter


def replace_offloaded(model: nn.Module, name: str, value: Tensor) -> Callable[[], None]:
    """Give an offloaded parameter other values where accelerate reads it from.

    Returns:
        A function that gives the old ones back.
    """
    module, _, own = name.rpartition(".")
    for hook in _hooks(model.get_submodule(module)):
        weights = getattr(hook, "weights_map", None)
        if weights is not None:
            # Tensors in memory come before those on disk.
            stored = getattr(weights.dataset, "state_dict", weights.dataset)
            key = f"{weights.prefix}{own}"
            old = stored.get(key)
            stored[key] = value
            return partial(stored.pop, key) if old is None else partial(stored.__setitem__, key, old)
    raise KeyError(name)


def _hooks(module: nn.Module) -> Iterator[Any]:
    """accelerate's hooks on a module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
