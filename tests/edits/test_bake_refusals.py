"""What a bake refuses, by name and before it writes anything: unknown models and tensors, other
bases, bad places.
"""

import json
from pathlib import Path

import pytest
import torch
from tiny import (
    build,
    file_hashes,
    unit,
)

from vectomy.checkpoint import Checkpoint
from vectomy.core.errors import ArchitectureError, ArtifactError, CheckpointError, FingerprintError
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.export import bake

TIER = "tiny"


def test_an_unknown_tensor_stops_the_edit_by_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny = build(tmp_path / "in", "llama")
    state = load_file(tiny.folder / "model.safetensors")
    for name in (
        "model.layers.1.mlp.second_down_proj.weight",
        "model.wpe.weight",
    ):
        save_file({**state, name: torch.ones(2)}, tiny.folder / "model.safetensors")
        with pytest.raises(ArchitectureError, match=name):
            bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # A layer that the model does not have is not loaded: it is listed and keeps its bytes.
    name = "model.layers.9.mlp.down_proj.weight"
    save_file({**state, name: torch.ones(2)}, tiny.folder / "model.safetensors")
    receipt = bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")
    assert "transformers does not load it" in dict(receipt.left)[name]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], torch.ones(2))


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("bert", "'bert'.*does not generate text"),
        ("t5", "'t5' is an encoder-decoder"),
        (None, "names no model_type"),
        (7, "llama, llama4"),
        (["llama"], "llama, llama4"),
    ],
    ids=str,
)
def test_an_unknown_model_type_is_refused_by_name(tmp_path: Path, model_type: object, message: str) -> None:
    tiny = build(tmp_path / "in", "llama")
    config = tiny.folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": model_type}))
    with pytest.raises(ArchitectureError, match=message) as caught:
        Edit.ablation(tiny.folder, unit())
    assert model_type is None or str(model_type) in str(caught.value)


@pytest.mark.parametrize("value", [None, 0, -3, "32", 32.0, True], ids=str)
def test_a_size_that_is_none_is_refused_by_name(tmp_path: Path, value: object) -> None:
    tiny = build(tmp_path / "in", "llama")
    config = tiny.folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": value}))
    with pytest.raises(ArchitectureError, match="hidden_size"):
        Edit.ablation(tiny.folder, unit())


def test_another_model_of_the_same_shape_is_refused(tiny_of, tmp_path: Path) -> None:
    tiny = tiny_of()
    from tiny import random_model

    random_model("llama", seed=1, tie_word_embeddings=False).save_pretrained(tmp_path / "other")
    with pytest.raises(FingerprintError):
        bake(Edit.ablation(tiny.folder, unit()), tmp_path / "other", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_fingerprint_does_not_depend_on_the_shards(tiny_of) -> None:
    whole, parts = (BaseModelRef.of(Checkpoint.open(tiny_of(sharded=s).folder)) for s in (False, True))
    assert whole == parts
    assert BaseModelRef.of(Checkpoint.open(tiny_of(tied=True).folder)) != whole


def test_a_writer_that_is_missing_or_misshapen_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny = build(tmp_path / "in", "llama")
    name = "model.layers.2.mlp.down_proj.weight"
    state = load_file(tiny.folder / "model.safetensors")
    whole = state.pop(name)
    for value, message in ((None, "lacks"), (whole.T.contiguous(), "has shape")):
        save_file(state if value is None else {**state, name: value}, tiny.folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"{message}.*" if value is not None else f"lacks '{name}'"):
            bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")


def test_packed_weights_are_refused_by_dtype(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny = build(tmp_path / "in", "llama")
    state = load_file(tiny.folder / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.weight"
    save_file({**state, name: state[name].to(torch.float8_e4m3fn)}, tiny.folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="F8_E4M3"):
        bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", ["", "sub", "sub/deeper"])
def test_an_output_in_the_input_is_refused(tmp_path: Path, inside: str) -> None:
    tiny = build(tmp_path / "in", "llama")
    before = file_hashes(tiny.folder)
    with pytest.raises(ArtifactError, match="input is never touched"):
        bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tiny.folder / inside)
    assert file_hashes(tiny.folder) == before


def test_an_output_that_holds_anything_is_refused_and_an_empty_one_taken(tiny_of, tmp_path: Path) -> None:
    tiny, out = tiny_of(), tmp_path / "out"
    edit = Edit.ablation(tiny.folder, unit())
    out.mkdir()
    bake(edit, tiny.folder, out)
    before = file_hashes(out)
    with pytest.raises(ArtifactError, match="exists and is not empty"):
        bake(edit, tiny.folder, out)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError):
        bake(edit, tiny.folder, tmp_path / "file")
    assert file_hashes(out) == before
