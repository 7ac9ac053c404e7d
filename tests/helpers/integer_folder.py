"""Model folders whose linear layers are integers in groups (GPTQ, AWQ), and the same weights stored
plainly: what a quantiser written here stores, and what its numbers mean.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["IntegerFolder", "integer_folder", "pack_bits"]

# As AutoAWQ packs a word: its i-th nibble holds the output of this place.
PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
LAYERS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "w1",
    "w2",
    "w3",
    "c_proj",
)


@dataclass(frozen=True)
class IntegerFolder:
    """The packed folder, and one with the weights that it means, as plain float16."""

    packed: Path
    plain: Path


def integer_folder(
    source: Path, out: Path, layout: str, *, bits: int = 4, group: int = 8, ordered: bool = False
) -> IntegerFolder:
    """Quantise the linear layers of a model folder.

    Args:
        layout: gptq, gptq_v2, awq or pack-quantized.
        ordered: with the inputs of a group scattered over the weight (activation order).
    """
    packed_state: dict[str, Tensor] = {}
    plain_state: dict[str, Tensor] = {}
    draw = np.random.default_rng(0)
    for name, weight in load_file(source / "model.safetensors").items():
        linear = name.endswith(".weight") and weight.ndim == 2 and name.split(".")[-2] in LAYERS
        fits = linear and all(size * bits % 32 == 0 for size in weight.shape)
        if not fits:
            packed_state[name] = plain_state[name] = weight
            continue
        inputs = weight.shape[1]
        groups = np.arange(inputs, dtype=np.int32) // group
        groups = draw.permutation(groups) if ordered else groups
        # The first format cannot store a zero point of 0.
        q, z, scales = _quantise(weight.float().numpy(), groups, bits, least=int(layout == "gptq"))
        # In float64 exact, then rounded once, to the dtype of the scales.
        values = scales.astype(np.float64)[groups] * (q.astype(np.int64) - z[groups])
        plain_state[name] = torch.from_numpy(values.T.copy()).to(torch.float16)
        module = name.removesuffix(".weight")
        stored = z - 1 if layout == "gptq" else z
        if layout == "pack-quantized":
            parts = {
                "weight_packed": pack_bits(q.T, bits),
                "weight_zero_point": pack_bits(z, bits).T,
                "weight_scale": scales.T,
                "weight_shape": np.array(weight.shape),
            }
            parts |= {"weight_g_idx": groups} if ordered else {}
        elif layout == "awq":
            parts = {"qweight": _pack_awq(q), "qzeros": _pack_awq(stored)}
        else:
            parts = {"qweight": pack_bits(q.T, bits).T, "qzeros": pack_bits(stored, bits), "g_idx": groups}
        if layout != "pack-quantized":
            parts["scales"] = scales
        packed_state |= {
            f"{module}.{part}": torch.from_numpy(np.ascontiguousarray(value)) for part, value in parts.items()
        }
    weights = {"type": "int", "num_bits": bits, "symmetric": False, "strategy": "group", "group_size": group}
    method: dict[str, Any] = {
        "quant_method": layout.split("_")[0],
        "bits": bits,
        "group_size": group,
        "desc_act": ordered,
    }
    form = {"version": "gemm", "zero_point": True} if layout == "awq" else {"checkpoint_format": layout}
    if layout == "pack-quantized":
        method = {"quant_method": "compressed-tensors", "format": layout}
        form = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    result = IntegerFolder(out / "packed", out / "plain")
    for folder, state in ((result.packed, packed_state), (result.plain, plain_state)):
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors"))
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {**method, **form}
    (result.packed / "config.json").write_text(json.dumps(config, indent=2))
    return result


def _quantise(
    weight: np.ndarray, groups: np.ndarray, bits: int, least: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asymmetric, to the nearest: numbers [in, out], zeros and scales [groups, out]."""
    low = np.stack([np.minimum(weight[:, groups == g].min(1), 0) for g in range(groups.max() + 1)])
    high = np.stack([np.maximum(weight[:, groups == g].max(1), 0) for g in range(groups.max() + 1)])
    scales = ((high - low) / (2**bits - 1) + 1e-4).astype(np.float16)
    zeros = np.rint(-low / scales).astype(np.int64).clip(least, 2**bits - 1)
    q = np.rint(weight.T / scales[groups]) + zeros[groups]
    return q.clip(0, 2**bits - 1).astype(np.int64), zeros, scales


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Each row as a string of bits, lowest bit of the first number first, in words of 32."""
    string = (values[:, :, None] >> np.arange(bits)) & 1
    rows = np.packbits(string.reshape(len(values), -1).astype(np.uint8), axis=1, bitorder="little")
    return rows.view("<i4")


def _pack_awq(values: np.ndarray) -> np.ndarray:
    words = np.zeros((len(values), values.shape[1] // 8), dtype=np.uint32)
    for word in range(words.shape[1]):
        for nibble, place in enumerate(PLACES):
            words[:, word] |= (values[:, 8 * word + place] << (4 * nibble)).astype(np.uint32)
    return words.view(np.int32)
