"""Zoo folders with quantised weights, written by the project's own encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vectomy.checkpoint import Checkpoint
from vectomy.checkpoint.quantization import encode, locate
from vectomy.checkpoint.reader import read_stored
from vectomy.models.stored_weights import StoredWeights

BLOCK = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}


def fp8(name: str, W: Tensor, grid: tuple[int, ...], path: Path) -> dict[str, Tensor]:
    """W as fp8 values and scales, by the encoder that test_quantization.py tests."""
    return _encoded(
        name,
        W,
        {name: torch.zeros(W.shape).to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.zeros(grid)},
        BLOCK,
        path,
    )


def mxfp4(name: str, W: Tensor, path: Path) -> dict[str, Tensor]:
    """Experts [expert, d_ff, d_model], as transformers loads them, stored [expert, d_model, d_ff /
    32, 16].
    """
    experts, columns, rows = W.shape
    parts = {
        f"{name}_blocks": torch.zeros(experts, rows, columns // 32, 16, dtype=torch.uint8),
        f"{name}_scales": torch.full((experts, rows, columns // 32), 127, dtype=torch.uint8),
    }
    return _encoded(name, W.mT, parts, {"quant_method": "mxfp4"}, path)


def _encoded(
    name: str, W: Tensor, zeros: dict[str, Tensor], config: dict[str, Any], path: Path
) -> dict[str, Tensor]:
    path.mkdir(exist_ok=True)
    save_file(zeros, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    opened = Checkpoint.open(path)
    encoded = locate(opened, name)
    return encode(encoded, W, {part: read_stored(opened, part) for part in encoded.parts}).parts


def quantised(folder: Path, kind: str, path: Path) -> Checkpoint:
    """A zoo folder with its writers (and gate_up projections of experts) quantised."""
    state = load_file(folder / "model.safetensors")
    for name in list(state):
        if kind == "mxfp4" and name.endswith(("experts.down_proj", "experts.gate_up_proj")):
            state |= mxfp4(name, state.pop(name), path / "one")
        elif kind != "mxfp4" and name.endswith(("o_proj.weight", "down_proj.weight")):
            W = state.pop(name)
            grid = (1,) if kind == "tensor" else tuple(-(-size // 16) for size in W.shape)
            state |= fp8(name, W, grid, path / "one")
    config = {"quantization_config": {"quant_method": "mxfp4"} if kind == "mxfp4" else BLOCK}
    base = path / "in"
    base.mkdir()
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    (base / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
    return Checkpoint.open(base)


def decoded_copy(packed: Checkpoint, out: Path) -> Path:
    """The folder with its packed weights decoded, as transformers loads them."""
    stored = StoredWeights(packed)
    state = {}
    for name in stored.names:
        stored.check(name)
        state[name] = stored.read(name, torch.float32).contiguous()
    out.mkdir()
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((packed.path / "config.json").read_text())
    del config["quantization_config"]
    (out / "config.json").write_text(json.dumps(config))
    return out
