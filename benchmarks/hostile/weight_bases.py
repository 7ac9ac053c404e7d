"""Small checkpoint folders of different make, each with an Edit file and a bake beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from vectomy.edits.edit import Edit
from vectomy.edits.export import bake

__all__ = ["INDEX", "QUANTIZATION", "WIDTH", "build_bases", "plain_direction"]

INDEX, WIDTH = "model.safetensors.index.json", 32
QUANTIZATION: tuple[Any, ...] = (
    "fp8",
    [],
    ["fp8"],
    7,
    {},
    {"quant_method": "fp8"},
    {"quant_method": "mxfp8"},
    {"quant_method": "mxfp4"},
    {"quant_method": "gptq", "bits": 4},
    {"quant_method": "fbgemm_fp8"},
    {"quant_method": "modelopt"},
    {"quant_method": "modelopt", "quant_algo": "FP8"},
    {"quant_method": "compressed-tensors"},
    {"quant_method": "compressed-tensors", "config_groups": {"a": "FP8_DYNAMIC"}},
    {
        "quant_method": "compressed-tensors",
        "config_groups": {"a": {"weights": {"type": "float", "num_bits": 8, "strategy": "block"}}},
    },
    {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "sparsity_config": {"format": "dense"},
        "config_groups": {
            "a": {"weights": {"type": "float", "num_bits": 8, "strategy": "tensor"}, "format": None}
        },
    },
    {"load_in_4bit": True},
    {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8_PB_WO"}},
)


def plain_direction() -> torch.Tensor:
    direction = torch.ones(WIDTH)
    direction[::3] = -1
    return direction


def build_bases(path: Path) -> None:
    """Small folders of different make, each with an Edit file beside it."""
    from tiny import build, unit

    def remade(
        name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], method: object
    ) -> None:
        file = path / name / "in" / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})
        config = json.loads((file.parent / "config.json").read_text())
        (file.parent / "config.json").write_text(json.dumps(config | {"quantization_config": method}))

    small = {"num_hidden_layers": 2}
    experts = {
        "num_experts": 3,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
    }
    build(path / "llama" / "in", "llama", sharded=True, **small)
    build(path / "gemma2" / "in", "gemma2", tied=True, **small)
    build(path / "moe" / "in", "qwen3_moe", sharded=True, **small, **experts)
    build(path / "fp8" / "in", "qwen3", **small)
    build(path / "mxfp4" / "in", "gpt_oss", **small, **experts | {"intermediate_size": 32})

    def fp8(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in [name for name in state if "_proj." in name]:
            state[name], state[f"{name}_scale_inv"] = (
                state[name].to(torch.float8_e4m3fn),
                torch.full((1, 1), 0.7),
            )
        return state

    def mxfp4(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in [name for name in state if name.endswith("experts.down_proj")]:
            count, _, out = state.pop(name).shape
            state[f"{name}_blocks"] = torch.randint(0, 256, (count, out, 1, 16), dtype=torch.uint8)
            state[f"{name}_scales"] = torch.randint(118, 126, (count, out, 1), dtype=torch.uint8)
        return state

    remade("fp8", fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    remade("mxfp4", mxfp4, {"quant_method": "mxfp4"})
    for base in sorted(path.iterdir()):
        edit = Edit.ablation(
            base / "in", torch.stack([unit(), unit(1)]), about={"found": ["by", "hand"]}, name=base.name
        )
        (edit * 0.5 + edit.only(components=["attention"])).save(base / "edit.safetensors")
    for base in sorted(path.iterdir()):
        bake(Edit.ablation(base / "in", plain_direction(), norm="column"), base / "in", base / "made")
