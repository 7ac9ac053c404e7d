"""Weights of a live model that may be packed: quantised by bitsandbytes, FP8, GPTQ, AWQ.

A packed layer stores codes and scales in place of a matrix, so its shape and its numbers are read
from what the layer does, not from its tensors.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["find_adapted", "is_packed", "measure_matrix", "read_live_shapes"]

PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Inputs of a packed layer that are read at once.
ROWS = 1024


def is_packed(module: nn.Module) -> bool:
    """Whether a linear layer stores its weight as something else than a matrix of floats."""
    shape = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    # The layers of PEFT hold the layer that they adapt.
    if not all(isinstance(size, int) for size in shape) or any(module.children()):
        return False
    weight = module._parameters.get("weight")
    if weight is None:
        return any(value.dtype not in PLAIN for value in _own_tensors(module))
    return weight.dtype not in PLAIN or (weight.ndim == 2 and tuple(weight.shape) != shape)


def _own_tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def read_live_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of a live model's parameters by name, those of packed layers as they would be
    unpacked.
    """
    packed = {name: module for name, module in model.named_modules() if is_packed(module)}
    adapted = find_adapted(model)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        layer = next((layer for layer in adapted if name.startswith(f"{layer}.")), None)
        if layer is not None:
            # An adapter's own parameters are no tensors of the model.
            inner = name.removeprefix(f"{layer}.base_layer.")
            if inner != name and f"{layer}.base_layer" not in packed:
                shapes[f"{layer}.{inner}"] = tuple(value.shape)
            continue
        owner, _, own = name.rpartition(".")
        if owner not in packed or own == "bias":
            shapes[name] = tuple(value.shape)
    for name, module in packed.items():
        shape = (module.out_features, module.in_features)
        # transformers quantises the transposed layers of GPT-2 as ordinary ones.
        transposed = getattr(getattr(module, "source_cls", None), "__name__", "") == "Conv1D"
        shapes[f"{name.removesuffix('.base_layer')}.weight"] = shape[::-1] if transposed else shape
    return shapes


def find_adapted(model: nn.Module) -> list[str]:
    """Names of the layers that hold another, as those of PEFT hold the layer that they adapt."""
    return [name for name, module in model.named_modules() if "base_layer" in module._modules]


@torch.no_grad()
def measure_matrix(module: nn.Module, dtype: torch.dtype) -> Float[Tensor, "d_out d_in"]:
    """The matrix of a packed layer in float32: what it makes of each unit vector, less its bias.

    Args:
        dtype: what the layer takes.
    """
    width = int(module.in_features)
    bias = module._parameters.get("bias")
    device = _own_tensors(module)[0].device
    columns = []
    for start in range(0, width, ROWS):
        index = torch.arange(start, min(start + ROWS, width), device=device)
        units = torch.zeros(len(index), width, dtype=dtype, device=device)
        units[torch.arange(len(index), device=device), index] = 1.0
        columns.append(module.forward(units).float())
    matrix = torch.cat(columns).T
    return matrix if bias is None else matrix - bias.float()[:, None]
