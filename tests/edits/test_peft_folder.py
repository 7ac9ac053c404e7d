"""The folder of an adapter, and adapters of quantised weights."""

import json
from pathlib import Path

import pytest
import torch
from loaded_adapter import orthonormal, untied
from safetensors.torch import load_file, save_file
from tiny import file_hashes
from torch import Tensor
from transformers import PreTrainedModel
from zoo import D_MODEL, randomise, zoo_config, zoo_model

from vectomy.checkpoint.quantization import mxfp4
from vectomy.core.errors import ArtifactError, DiskFullError, FingerprintError
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake, write_lora

TIER = "zoo"


# The folder


def test_the_folder_is_whole_and_the_same_twice(zoo_of, tmp_path: Path) -> None:
    folder = zoo_of("deepseek_v3")
    before, edit = file_hashes(folder), Edit.ablation(folder, orthonormal(2), name="maker/model")
    receipt = write_lora(edit, folder, tmp_path / "a")
    (tmp_path / "b").mkdir()
    write_lora(Edit.load(tmp_path / "a" / "edit.safetensors"), folder, tmp_path / "b")
    assert file_hashes(tmp_path / "a") == file_hashes(tmp_path / "b")
    assert sorted(file_hashes(tmp_path / "a")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "edit.safetensors",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert file_hashes(folder) == before
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["task_type"]) == ("maker/model", "CAUSAL_LM")
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 2, {})
    assert config["target_modules"][0] == "model.embed_tokens"
    assert "model.layers.0.mlp.down_proj.weight" in config["target_parameters"]
    baked = bake(edit, folder, tmp_path / "baked")
    assert (receipt.edited, receipt.left, receipt.parameters) == (baked.edited, baked.left, baked.parameters)


def test_live_names_count_where_a_checkpoint_has_others(zoo_of, tmp_path: Path) -> None:
    folder = zoo_of("gemma3")
    write_lora(untied(Edit.ablation(folder, orthonormal(1)), folder), folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert all(name.startswith("model.language_model.layers.") for name in config["target_modules"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_adapter_is_float32_or_as_the_checkpoint_by_option(tmp_path: Path, dtype: torch.dtype) -> None:
    zoo_model("gpt_oss").to(dtype).save_pretrained(tmp_path / "in")
    edit = Edit.ablation(tmp_path / "in", orthonormal(2))
    write_lora(edit, tmp_path / "in", tmp_path / "full")
    write_lora(edit, tmp_path / "in", tmp_path / "half", dtype="checkpoint")
    full, half = (load_file(tmp_path / side / "adapter_model.safetensors") for side in ("full", "half"))
    assert {value.dtype for value in full.values()} == {torch.float32}
    assert {value.dtype for value in half.values()} == {dtype}
    for name, value in full.items():
        assert torch.equal(value.to(dtype), half[name])


def test_it_fits_its_base_alone_and_overwrites_nothing(zoo_of, tmp_path: Path) -> None:
    folder = zoo_of("llama")
    edit = Edit.ablation(folder, orthonormal(1))
    with pytest.raises(FingerprintError, match="Use the base it was made for"):
        write_lora(edit, zoo_of("llama:bias"), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("x")
    with pytest.raises(ArtifactError, match="not empty"):
        write_lora(edit, folder, tmp_path / "full")
    with pytest.raises(ArtifactError, match="never touched"):
        write_lora(edit, folder, folder / "adapter")
    assert file_hashes(tmp_path).keys() == {"full/kept"}


def test_a_full_disk_is_named_and_leaves_nothing(zoo_of, tmp_path: Path, monkeypatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    folder = zoo_of("llama")
    edit = Edit.ablation(folder, orthonormal(1))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFullError, match="disk is full"):
        write_lora(edit, folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# Quantised weights are decoded


def requantised(
    folder: Path, out: Path, changes: dict[str, dict[str, Tensor]], quantization: dict[str, object]
) -> Path:
    """A copy of a folder with some tensors stored in other ones."""
    out.mkdir()
    state = load_file(folder / "model.safetensors")
    for name, parts in changes.items():
        del state[name]
        state |= parts
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (out / "config.json").write_text(
        json.dumps(config | ({"quantization_config": quantization} if quantization else {}))
    )
    return out


def adapter_of(folder: Path, out: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    notes = write_lora(Edit.ablation(folder, orthonormal(2)), folder, out).notes
    return load_file(out / "adapter_model.safetensors"), notes


def same_adapters(stored: Path, decoded: Path, out: Path) -> None:
    (one, notes), (other, silent) = adapter_of(stored, out / "one"), adapter_of(decoded, out / "other")
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-6, atol=1e-6, msg=name)
    assert any("is quantised" in note for note in notes)
    assert not any("is quantised" in note for note in silent)


def test_fp8_weights_are_decoded(zoo_of, tmp_path: Path) -> None:
    folder, name = zoo_of("llama"), "model.layers.1.mlp.down_proj.weight"
    scale = torch.tensor([[0.013]])
    values = (load_file(folder / "model.safetensors")[name] / scale).to(torch.float8_e4m3fn)
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    stored = requantised(folder, tmp_path / "in", {name: {name: values, f"{name}_scale_inv": scale}}, config)
    decoded = requantised(folder, tmp_path / "plain", {name: {name: values.float() * scale}}, {})
    same_adapters(stored, decoded, tmp_path)


def test_mxfp4_experts_are_decoded_and_lie_the_other_way(tmp_path: Path) -> None:
    """Stored [expert, d_model, d_ff], loaded [expert, d_ff, d_model]."""
    name, experts, groups = "model.layers.1.mlp.experts.down_proj", 4, 2
    folder = tmp_path / "base"
    model = small_gpt_oss(32 * groups)
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, (experts, D_MODEL, groups, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(122, 126, (experts, D_MODEL, groups), generator=generator, dtype=torch.uint8)
    numbers = torch.stack([mxfp4.unpack(block) for block in blocks])
    weight = numbers * torch.exp2(scales.float() - 127).repeat_interleave(32, dim=-1)
    parts = {f"{name}_blocks": blocks, f"{name}_scales": scales}
    stored = requantised(folder, tmp_path / "in", {name: parts}, {"quant_method": "mxfp4"})
    decoded = requantised(folder, tmp_path / "plain", {name: {name: weight.mT.contiguous()}}, {})
    same_adapters(stored, decoded, tmp_path)


def small_gpt_oss(width: int) -> PreTrainedModel:
    config = zoo_config("gpt_oss")
    config.intermediate_size = width
    model = type(zoo_model("gpt_oss"))(config).float().eval()
    randomise(model)
    return model
