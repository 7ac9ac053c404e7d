"""Tensors beside the model keep their bytes or stop the edit, and quantised checkpoints round."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exactness import stream_share
from quantised_folder import quantised
from safetensors.torch import load_file, save_file
from tiny import unit
from torch import Tensor
from zoo import D_MODEL, zoo_load, zoo_model

from vectomy.architecture import architecture_of, check_covered
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.checkpoint.quantization import PackedWeight, decode, locate
from vectomy.checkpoint.reader import read_stored
from vectomy.core.component import OUTSIDE
from vectomy.core.errors import ArchitectureError, EditError
from vectomy.core.types import NormMode
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake

TIER = "zoo"


# Tensors beside the model


def with_more(folder: Path, path: Path, more: dict[str, Tensor], config: dict[str, Any]) -> Checkpoint:
    """The same checkpoint with more tensors, and more in its config.json."""
    path.mkdir()
    said = json.loads((folder / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(said | config))
    save_file(
        load_file(folder / "model.safetensors") | more, path / "model.safetensors", metadata={"format": "pt"}
    )
    return Checkpoint.open(path)


def next_layer(folder: Path) -> dict[str, Tensor]:
    """A multi-token-prediction block as DeepSeek-V3 stores it: one more layer, and a few tensors of
    its own.
    """
    state = load_file(folder / "model.safetensors")
    block = {re.sub(r"layers\.3\.", "layers.4.", n): v.clone() for n, v in state.items() if "layers.3." in n}
    own = {
        "eh_proj.weight": torch.randn(D_MODEL, 2 * D_MODEL),
        "shared_head.head.weight": torch.randn(97, D_MODEL),
        "embed_tokens.weight": torch.randn(97, D_MODEL),
        "enorm.weight": torch.randn(D_MODEL),
    }
    return block | {f"model.layers.4.{name}": value for name, value in own.items()}


MTP = {
    "mtp.fc.weight": torch.ones(D_MODEL, 64),
    "mtp.layers.0.self_attn.o_proj.weight": torch.ones(D_MODEL, 48),
    "mtp.layers.0.mlp.experts.0.down_proj.weight": torch.ones(D_MODEL, 20),
}


@pytest.mark.parametrize("label", ["deepseek_v3", "glm4_moe", "qwen3_next", "qwen3_5_moe_text"])
def test_heads_that_predict_more_tokens_keep_their_bytes_and_are_named(
    zoo_of: Any, tmp_path: Path, label: str
) -> None:
    folder = zoo_of(label)
    more = MTP if label.startswith("qwen") else next_layer(folder)
    config = {} if label.startswith("qwen") else {"num_nextn_predict_layers": 1}
    checkpoint = with_more(folder, tmp_path / "in", more, config)
    receipt = bake(Edit.ablation(checkpoint, unit()), checkpoint, tmp_path / "out")
    assert set(more) == {name for name, reason in receipt.left if "predicts more tokens" in reason}
    after = Checkpoint.open(tmp_path / "out")
    assert all(torch.equal(read_stored(after, name), value) for name, value in more.items())
    loaded = zoo_load(label, tmp_path / "out")
    assert stream_share(loaded, architecture_of(loaded), unit()[None])[0] < 1e-5


@pytest.mark.parametrize("label", ["deepseek_v3", "qwen3_next", "gemma4_text:moe", "gpt2"])
def test_a_layer_too_many_is_listed_and_an_unknown_tensor_stops_the_edit_by_name(
    zoo_of: Any, tmp_path: Path, label: str
) -> None:
    folder = zoo_of(label)
    blocks = architecture_in(Checkpoint.open(folder)).family.blocks
    number = architecture_in(Checkpoint.open(folder)).n_layers + 1
    # A layer that the model does not have is not loaded: it is listed.
    name = f"{blocks}.{number}.mlp.down_proj.weight"
    checkpoint = with_more(folder, tmp_path / "layer", {name: torch.ones(D_MODEL, 4)}, {})
    receipt = bake(Edit.ablation(checkpoint, unit()), checkpoint, tmp_path / "out")
    assert "does not load it" in dict(receipt.left)[name]
    root = blocks.partition(".")[0]
    for at, name in enumerate((f"{blocks}.1.mlp.third_proj.weight", f"{root}.extra_embedding.weight")):
        checkpoint = with_more(folder, tmp_path / str(at), {name: torch.ones(D_MODEL, 4)}, {})
        with pytest.raises(ArchitectureError, match=re.escape(name)):
            Edit.ablation(checkpoint, unit())


# Quantised checkpoints


def decoded(checkpoint: Checkpoint, name: str) -> tuple[PackedWeight, Tensor]:
    encoded = locate(checkpoint, name)
    return encoded, decode(encoded, {part: read_stored(checkpoint, part) for part in encoded.parts}).float()


@pytest.mark.parametrize("norm", ["none", "column"])
@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("qwen3", "block"),
        ("qwen3", "tensor"),
        ("mixtral", "block"),
        ("gpt_oss:wide", "mxfp4"),
        ("gpt_oss:square", "mxfp4"),
    ],
)
def test_a_quantised_bake_is_the_float_bake_up_to_the_rounding_it_reports(
    zoo_of: Any, tmp_path: Path, label: str, kind: str, norm: NormMode
) -> None:
    folder = zoo_of("gpt_oss:square") if kind == "mxfp4" else zoo_of(label)
    if label == "gpt_oss:wide":
        folder = _wide_gpt_oss(tmp_path / "wide")
    checkpoint = quantised(folder, kind, tmp_path)
    arch = architecture_in(checkpoint)
    check_covered(arch)
    r = unit()
    edit = Edit.ablation(checkpoint, r, norm=norm)
    receipt = bake(edit, checkpoint, tmp_path / "out")
    out = Checkpoint.open(tmp_path / "out")
    held = set()
    for writer in arch.writers:
        for stored in (*writer.weights, *writer.biases):
            encoded, old = decoded(checkpoint, stored.name)
            _, new = decoded(out, stored.name)
            held |= set(encoded.parts)
            # As stored: MXFP4 has the output axis first, plain experts of gpt_oss have it last.
            axis = old.ndim - 2 if encoded.encoding == "mxfp4" else stored.axis
            vectors, after = (side.movedim(axis, -1).reshape(-1, D_MODEL) for side in (old, new))
            wanted = vectors - (vectors @ r)[:, None] * r
            if norm == "column" and stored in writer.weights:
                wanted = wanted * (vectors.norm(dim=-1) / wanted.norm(dim=-1).clamp_min(1e-30))[:, None]
            error = float((after - wanted).norm() / wanted.norm())
            if encoded.encoding == "plain":
                assert error < 1e-6
                assert encoded.name not in receipt.rounding
                continue
            assert error == pytest.approx(receipt.rounding[stored.name], rel=1e-2)
            assert error < {"mxfp4": 0.2}.get(kind, 0.05)
            shares = [float((side @ r).norm() / side.norm()) for side in (vectors, after)]
            assert shares[1] < shares[0] / (10 if kind != "mxfp4" else 3), stored
            assert stored.name in receipt.edited
    assert receipt.rounding
    for name in checkpoint.tensors.keys() - held:
        before, after = (read_stored(side, name) for side in (checkpoint, out))
        assert torch.equal(before.view(torch.uint8), after.view(torch.uint8)), name


def _wide_gpt_oss(path: Path) -> Path:
    """d_ff of 64, for MXFP4 packs 32 values of a row."""
    state, model = {}, zoo_model("gpt_oss:square")
    model.save_pretrained(path)
    generator = torch.Generator().manual_seed(0)
    for name, value in load_file(path / "model.safetensors").items():
        shape = list(value.shape)
        if name.endswith("experts.down_proj"):
            shape[1] = 64
        elif "experts.gate_up_proj" in name:
            shape[-1] = 128
        state[name] = value if shape == list(value.shape) else torch.randn(shape, generator=generator) * 0.2
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    return path


def test_bitsandbytes_is_refused_with_the_remedy(zoo_of: Any, tmp_path: Path) -> None:
    state = {"model.layers.0.mlp.down_proj.weight.absmax": torch.ones(4)}
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    checkpoint = with_more(zoo_of("llama"), tmp_path / "in", state, config)
    with pytest.raises(ArchitectureError, match=r"bitsandbytes.*bfloat16 release.*dequantize"):
        Edit.ablation(checkpoint, unit())


def test_embeddings_take_no_row_mode_and_keep_their_lengths_in_column_mode(zoo_of: Any) -> None:
    edit = Edit.ablation(zoo_of("gpt2"), unit(), norm="row")
    assert {op.norm for op in edit.operations if op.component in OUTSIDE} == {"none"}
    with pytest.raises(EditError, match="none or column, not row"):
        replace(edit, operations=tuple(replace(op, norm="row") for op in edit.operations))
