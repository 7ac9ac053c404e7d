"""Weights of linear layers in the layout that oneDNN's kernels read, for the length of a block.

A matrix product over few rows spends much of its time on bringing the weight into that layout, in
every pass. Decoding runs the same weights with few rows many times, so that one packing pays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from vectomy.core.freed_memory import trim_heap
from vectomy.models.memory import available_memory

__all__ = ["SHARE", "pack_linears"]

DTYPES = (torch.bfloat16, torch.float32)
# The packed copies may take this share of the free memory.
SHARE = 0.25


@contextmanager
def pack_linears(model: nn.Module, rows: int) -> Iterator[bool]:
    """Run the linear layers of a model on a processor with packed weights, for inference only.
    Yields whether they are. Hooks run as before; weights must not change inside the block.

    Args:
        rows: rows of the usual pass, for which the layout is chosen.
    """
    linears = [module for module in model.modules() if _can_be_packed(module)]
    size = sum(module.weight.nbytes for module in linears)
    if not linears or size > SHARE * available_memory():
        yield False
        return
    with ExitStack() as restored:
        # Last of all: the packed copies may be as large as the model.
        restored.callback(trim_heap)
        for module in linears:
            restored.callback(module.__dict__.pop, "forward", None)
            module.__dict__["forward"] = _pack(module, rows)
        yield True


def _pack(module: nn.Linear, rows: int) -> _PackedForward:
    weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), rows)
    return _PackedForward(weight, module.bias)


def _can_be_packed(module: nn.Module) -> bool:
    return (
        type(module) is nn.Linear
        and "forward" not in module.__dict__
        and module.weight.device.type == "cpu"
        and module.weight.dtype in DTYPES
        and torch.backends.mkldnn.is_available()
        and (module.weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # Private, and therefore asked for.
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class _PackedForward:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, None if bias is None else bias.detach()

    def __call__(self, input: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return result
