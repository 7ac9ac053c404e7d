"""Linear layers that hold two weights a byte, in place of those of a live model: a base in 4 bits
without bitsandbytes.

`weight_first` says under which names the codes lie: as a parameter `weight` of another shape and
dtype (bitsandbytes), or as a buffer `qweight` without any `weight` (GPTQ, AWQ).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from vectomy.models import ChatModel

LEVELS = 7
# Weights of a row that share a scale.
GROUP = 16


class PackedLinear(nn.Module):
    """y = W x + b, with W rounded to 15 levels a group."""

    def __init__(self, linear: nn.Linear, weight_first: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.out_features, linear.in_features
        groups = linear.weight.detach().float().unflatten(1, (-1, GROUP))
        scales = groups.abs().amax(-1, keepdim=True).clamp_min(1e-12) / LEVELS
        codes = ((groups / scales).round() + LEVELS).to(torch.uint8).flatten()
        packed = (codes[::2] << 4 | codes[1::2])[:, None]
        self.bias = linear.bias
        self.register_buffer("scales", scales)
        if weight_first:
            self.weight = nn.Parameter(packed, requires_grad=False)
        else:
            self.register_buffer("qweight", packed)

    def matrix(self) -> Tensor:
        packed = self.weight if hasattr(self, "weight") else self.qweight
        codes = torch.stack([packed >> 4, packed & 15], -1).flatten().float() - LEVELS
        groups = codes.view(self.out_features, -1, GROUP) * self.scales
        return groups.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.matrix().to(x.dtype), self.bias)


def pack_layers(chat: ChatModel, weight_first: bool = True) -> ChatModel:
    """A copy of the model whose linear layers, but for the head, are packed."""
    model = copy.deepcopy(chat.model)
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and module is not head:
            model.set_submodule(name, PackedLinear(module, weight_first))
    return replace(chat, model=model)


def unpack_layers(chat: ChatModel) -> ChatModel:
    """A copy of such a model with plain layers of the same values: the oracle."""
    model = copy.deepcopy(chat.model)
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            plain = nn.Linear(module.in_features, module.out_features, module.bias is not None)
            plain.weight = nn.Parameter(module.matrix(), requires_grad=False)
            plain.bias = module.bias
            model.set_submodule(name, plain)
    return replace(chat, model=model)
