"""A PEFT adapter of two modules of different shapes, random, with its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

RANK, ALPHA = 3, 12
NAMES = ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj")


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Write the adapter into `folder`; returns its tensors by their names in the file."""
    tensors = {}
    for index, name in enumerate(NAMES):
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, 7 + index)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(5 + index, RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA})
    )
    return tensors
