"""Files beside the weights: an edited copy keeps tensors of other modules and never the unedited
model, whatever it is called.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import build

from vectomy.checkpoint import Checkpoint, architecture_in, rewrite
from vectomy.checkpoint.auxiliary_files import sort_files

TIER = "tiny"

EMBEDDING = "model.embed_tokens.weight"
NEW = {
    "mtp": {"mtp.fc.weight": torch.ones(32, 64), "mtp.layers.0.mlp.down_proj.weight": torch.ones(32, 48)},
    "mtp-with-its-embedding": {"mtp.embed_tokens.weight": torch.ones(97, 32)},
    "layer-behind": {"model.layers.99.embed_tokens.weight": torch.ones(97, 32)},
    "value-head": {"v_head.summary.weight": torch.ones(1, 32)},
    "adapter": {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("auxiliary") / "m", "llama").folder


def sort(folder: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], name: str = "x.safetensors") -> bool:
    """Whether the file is kept."""
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / name)
    opened = Checkpoint.open(folder)
    sorted_ = sort_files(tmp_path, [name], opened.tensors, opened.config)
    assert (*sorted_.kept, *sorted_.left) == (name,)
    assert len(sorted_.notes) == 1
    assert name in sorted_.notes[0]
    return sorted_.kept == (name,)


@pytest.mark.parametrize("kind", NEW)
def test_tensors_of_other_modules_are_kept(folder: Path, tmp_path: Path, kind: str) -> None:
    assert sort(folder, tmp_path, NEW[kind])


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: f"_orig_mod.{name}",
        lambda name: name.removeprefix("model."),
        lambda name: f"language_model.{name}",
        lambda name: name.replace("model.embed_tokens", "tok_embeddings").replace("model.", "own."),
        lambda name: name.replace("model.", "wholly.other."),
    ],
    ids=["same", "compiled", "bare", "multimodal", "maker", "unknown"],
)
def test_the_same_weights_under_any_name_are_left_behind(folder: Path, tmp_path: Path, rename) -> None:
    state = load_file(folder / "model.safetensors")
    assert not sort(folder, tmp_path, {rename(name): value for name, value in state.items()})


def test_a_file_that_cannot_be_read_is_left_behind(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no header")
    opened = Checkpoint.open(folder)
    sorted_ = sort_files(tmp_path, ["x.safetensors", "y.bin", "z.json"], opened.tensors, opened.config)
    assert sorted_.kept == ("z.json",)
    assert sorted_.left == ("x.safetensors", "y.bin")
    assert "cannot be read" in sorted_.notes[0]
    assert "may hold" in sorted_.notes[1]


@pytest.mark.parametrize("sharded", [False, True])
def test_a_kept_file_is_in_the_copy_byte_for_byte(tmp_path: Path, sharded: bool) -> None:
    folder = build(tmp_path / "in", "llama", sharded=sharded).folder
    save_file(NEW["mtp"], folder / "mtp.safetensors")
    opened = Checkpoint.open(folder)
    assert "mtp.fc.weight" not in opened.tensors
    assert architecture_in(opened).n_layers == opened.config["num_hidden_layers"]
    rewrite(opened, tmp_path / "out", [])
    assert (tmp_path / "out" / "mtp.safetensors").read_bytes() == (folder / "mtp.safetensors").read_bytes()
    assert any(note.startswith("kept as they are") for note in Checkpoint.open(tmp_path / "out").notes)
