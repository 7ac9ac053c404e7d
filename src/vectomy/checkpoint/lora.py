"""PEFT's LoRA files, and the one place that merges them: W + s B A, with s = alpha / rank.

Reads an adapter that is nothing more than such products of linear layers; anything else is refused
by name. Neither PEFT nor a live model is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from jaxtyping import Float
from torch import Tensor

from vectomy.core.errors import CheckpointError
from vectomy.core.tensor_file import read_tensors
from vectomy.core.text_file import read_text

__all__ = ["ADAPTER_PREFIX", "LORA_TENSORS", "LORA_UP", "LoraUpdate", "is_transposed_lora", "read_lora"]

ADAPTER_PREFIX = "base_model.model."
"""What PEFT writes in front of a live module's name."""
LORA_TENSORS, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LORA_DOWN, LORA_UP = ".lora_A.weight", ".lora_B.weight"
# Settings of PEFT that change the function beyond W + s B A.
UNSUPPORTED = ("use_dora", "use_rslora", "modules_to_save", "lora_bias", "target_parameters")


@dataclass(frozen=True)
class LoraUpdate:
    """The change s B A of one linear layer, in the layout of nn.Linear."""

    scale: float
    up: Float[Tensor, "d_out rank"]
    """B"""
    down: Float[Tensor, "rank d_in"]
    """A"""

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def matrix(self) -> Float[Tensor, "d_out d_in"]:
        """s B A in float32."""
        return self.scale * (self.up.float() @ self.down.float())

    def adder(self, transposed: bool = False) -> Callable[[Tensor], Tensor]:
        """A function from a stored weight to W + s B A in the weight's dtype.

        Args:
            transposed: the weight is stored as d_in x d_out (Conv1D of GPT-2).
        """

        def add(weight: Tensor) -> Tensor:
            update = self.matrix()
            return (weight.float() + (update.T if transposed else update)).to(weight.dtype)

        return add


def read_lora(adapter: Path) -> dict[str, LoraUpdate]:
    """The updates of an adapter folder, by live module.

    Raises:
        CheckpointError: the folder cannot be read, or its adapter does more than W + s B A.
    """
    try:
        config = _read_config(adapter)
        tensors, _ = read_tensors(adapter / LORA_TENSORS)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{adapter} holds no PEFT adapter ({error})") from None
    extra = [name for name in UNSUPPORTED if config.get(name)]
    if extra or config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise CheckpointError(
            f"the adapter {adapter} has {', '.join(extra) or config.get('peft_type')}, which is more than "
            "W + s B A; merge it with PEFT"
        )
    ranks: dict[str, float] = config.get("rank_pattern") or {}
    alphas: dict[str, float] = config.get("alpha_pattern") or {}
    updates: dict[str, LoraUpdate] = {}
    for name, down in tensors.items():
        if name.endswith(LORA_DOWN):
            module = name.removeprefix(ADAPTER_PREFIX).removesuffix(LORA_DOWN)
            up = tensors[name.removesuffix(LORA_DOWN) + LORA_UP]
            scale = alphas.get(module, config["lora_alpha"]) / ranks.get(module, config["r"])
            updates[module] = LoraUpdate(scale, up, down)
    if not updates:
        raise CheckpointError(f"the adapter {adapter} holds no LoRA of a linear layer")
    return updates


def is_transposed_lora(adapter: Path) -> bool:
    """Whether the adapter says that its layers store their weights as d_in x d_out. Only needed
    for square matrices, whose shape does not show it.
    """
    return bool(_read_config(adapter).get("fan_in_fan_out"))


def _read_config(adapter: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(read_text(adapter / LORA_CONFIG))
    return config
