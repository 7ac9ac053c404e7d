"""Weights in every stored form that is read (FP8 by blocks, channels and tensors, MXFP4, plain),
and the folders that hold them.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vectomy.checkpoint import Checkpoint, read_stored
from vectomy.checkpoint.quantization import (
    PackedWeight,
    locate,
)

E4M3, E5M2, E8M0 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu
NAME, EXPERTS = "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.experts.down_proj"
SCALE = NAME + "_scale_inv"
# E2M1 by code, the sign in its highest bit: OCP Microscaling Formats 1.0, section 5.3.3.
FP4_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4_VALUES = (*FP4_MAGNITUDES, *(-value for value in FP4_MAGNITUDES))
BLOCK = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def folder(path: Path, tensors: dict[str, Tensor], quantization: object = None) -> Checkpoint:
    path.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()},
        path / "model.safetensors",
    )
    config = {"model_type": "llama"} | ({} if quantization is None else {"quantization_config": quantization})
    (path / "config.json").write_text(json.dumps(config))
    return Checkpoint.open(path)


def opened(checkpoint: Checkpoint, name: str) -> tuple[PackedWeight, dict[str, Tensor]]:
    encoded = locate(checkpoint, name)
    return encoded, {part: read_stored(checkpoint, part) for part in encoded.parts}


def bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and torch.equal(bits(a[k]), bits(b[k]))
        for k in a
    )


def every_byte(
    shape: tuple[int, ...], damaged: tuple[int, ...] = (0x7F, 0xFF), kind: torch.dtype = E4M3
) -> Tensor:
    """All codes but the damaged ones: zeros of both signs, subnormals, the largest."""
    codes = torch.tensor([code for code in range(256) if code not in damaged], dtype=torch.uint8)
    return (
        codes[torch.arange(math.prod(shape)) % len(codes)][torch.randperm(math.prod(shape))]
        .reshape(shape)
        .view(kind)
    )


def fp8_blocks(rows: int, columns: int, kind: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    grid = (-(-rows // 128), -(-columns // 128))
    scale = torch.rand(grid) * 0.01 + 1e-4
    return every_byte((rows, columns)), scale.log2().round().exp2().to(kind) if kind == E8M0 else scale.to(
        kind
    )


def mxfp4_parts(experts: int, rows: int, groups: int) -> dict[str, Tensor]:
    return {
        f"{EXPERTS}_blocks": torch.randint(0, 256, (experts, rows, groups, 16), dtype=torch.uint8),
        f"{EXPERTS}_scales": torch.randint(110, 126, (experts, rows, groups), dtype=torch.uint8),
    }


INFINITE = (0x7C, 0x7D, 0x7E, 0x7F, 0xFC, 0xFD, 0xFE, 0xFF)


def stored_as(kind: str) -> tuple[str, dict[str, Tensor], object]:
    """Name, tensors and quantization_config of a weight stored as `kind`; no size divides 128."""
    values = every_byte((200, 320))
    three = every_byte((3, 160, 256))
    if kind.startswith("plain"):
        return NAME, {NAME: torch.randn(40, 24).to(getattr(torch, kind.removeprefix("plain-")))}, None
    if kind.startswith("block"):
        values, scale = fp8_blocks(
            200,
            320,
            {"f32": torch.float32, "bf16": torch.bfloat16, "e8m0": E8M0}[kind.removeprefix("block-")],
        )
        return NAME, {NAME: values, SCALE: scale}, BLOCK
    channel = torch.rand(200, 1) * 0.01 + 1e-4
    tensors = {
        "tensor-scalar": {SCALE: torch.tensor(0.003)},
        "tensor-one": {NAME + "_scale": torch.tensor([0.003])},
        "tensor-e5m2": {NAME + "_scale": torch.tensor([1e-6])},
        "channel": {NAME + "_scale": channel},
        "channel-bf16": {NAME + "_scale": channel.bfloat16()},
        "channel-f64": {NAME + "_scale": channel.double() * 1.0000000001},
        "channel-vector": {NAME + "_scale": channel[:, 0]},
        "modelopt-block": {NAME + "_scale": torch.rand(2, 1, 3, 1) * 0.01 + 1e-4},
        "mxfp8": {SCALE: torch.randint(110, 126, (200, 10), dtype=torch.uint8)},
        "v4": {
            NAME.replace("weight", "scale"): torch.randint(110, 126, (2, 3), dtype=torch.uint8).view(E8M0)
        },
        "experts-block": {EXPERTS + "_scale_inv": torch.rand(3, 2, 2) * 0.01 + 1e-4},
        "experts-tensor": {EXPERTS + "_scale_inv": torch.rand(3, 1, 1) * 0.01 + 1e-4},
        "experts-vector": {EXPERTS + "_scale": torch.rand(3) * 0.01 + 1e-4},
        "experts-channel": {EXPERTS + "_scale": torch.rand(3, 160, 1) * 0.01 + 1e-4},
        "experts-halves": {EXPERTS + "_scale_inv": torch.rand(3, 2, 1) * 0.01 + 1e-4},
    }
    if kind == "mxfp4":
        return EXPERTS, mxfp4_parts(3, 40, 5), {"quant_method": "mxfp4"}
    if kind == "experts-halves":
        three = three[:, :96].contiguous()
    if kind == "tensor-e5m2":
        values = every_byte((200, 320), INFINITE, E5M2)
    name = EXPERTS if kind.startswith("experts") else NAME
    config = {"quant_method": "mxfp8"} if kind == "mxfp8" else BLOCK
    return name, {name: three if name == EXPERTS else values, **tensors[kind]}, config


BLOCKS = ["block-f32", "block-bf16", "block-e8m0"]
OTHERS = [
    "tensor-scalar",
    "tensor-one",
    "tensor-e5m2",
    "channel",
    "channel-bf16",
    "channel-f64",
    "channel-vector",
    "modelopt-block",
    "mxfp8",
    "v4",
    "experts-block",
    "experts-tensor",
    "experts-vector",
    "experts-channel",
    "experts-halves",
    "mxfp4",
]
QUANTISED = BLOCKS + OTHERS
