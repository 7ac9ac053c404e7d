"""An adapter computes what hooks and baked weights do, in PEFT and merged, and what it cannot hold
it refuses by name.

PEFT itself is the oracle: it loads the folder into the base model, and its merged weights are the
baked ones.
"""

import json
from pathlib import Path

import pytest
import torch
from loaded_adapter import CLOSE, apart, loaded, mixed, orthonormal, untied, wrapped
from peft import PeftModel
from safetensors.torch import load_file
from tiny import hooked
from zoo import ZOO, randomise, zoo_config, zoo_load, zoo_logits

from vectomy.architecture import architecture_of
from vectomy.edits.edit import Edit, Operation
from vectomy.edits.export import bake, write_lora

TIER = "zoo"


def hold_together(label: str, folder: Path, edit: Edit, out: Path, **options: str) -> PeftModel:
    """Hooks, baked weights, the live adapter and the merged one give the same logits, and other
    ones than the base.
    """
    base = zoo_load(label, folder)
    before = zoo_logits(base)
    with edit.hooks(base):
        hooks = zoo_logits(base)
    bake(edit, folder, out / "baked")
    baked = zoo_load(label, out / "baked")
    wanted = zoo_logits(baked)
    assert apart(before, wanted) > 0.01
    assert apart(hooks, wanted) < CLOSE
    write_lora(edit, folder, out / "adapter", **options)
    parameters, writers = dict(base.named_parameters()), edit.writers(architecture_of(base))
    model = loaded(base, out / "adapter")
    own = {w.weight for w, _ in writers} | {
        w.bias for w, _ in writers if w.bias and parameters[w.bias].ndim == 2
    }
    assert wrapped(model) == own
    assert apart(zoo_logits(model), wanted) < CLOSE
    merged = model.merge_and_unload()
    assert apart(zoo_logits(merged), wanted) < CLOSE
    state = baked.state_dict()
    for name, value in merged.state_dict().items():
        if value.numel():
            torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-5, msg=name)
    assert not hooked(merged)
    return model


# One function, in every form that PEFT has

FORMS = {
    "modules": ["llama", "llama:bias", "llama:tied", "qwen2", "qwen3_vl"],
    "norms": ["gemma2", "gemma3"],
    "conv1d": ["gpt2"],
    "positions": ["opt", "gpt_neo"],
    "loose-bias": ["gpt_neox_japanese", "jetmoe"],
    "experts": ["mixtral", "qwen3_vl_moe"],
    "experts-bias": ["gpt_oss:square"],
    "experts-transposed": ["llama4_text", "aria_text"],
    "dense-beside-experts": ["qwen2_moe", "deepseek_v3", "jamba"],
    "no-attention": ["qwen3_next", "lfm2"],
}


@pytest.mark.parametrize("label", [label for labels in FORMS.values() for label in labels])
def test_hooks_baked_weights_and_adapter_give_the_same_logits(zoo_of, tmp_path: Path, label: str) -> None:
    folder = zoo_of(label)
    hold_together(label, folder, untied(Edit.ablation(folder, orthonormal(2), 0.7), folder), tmp_path)


@pytest.mark.parametrize("label", ["gpt2", "opt", "bloom"])
def test_an_untied_embedding_takes_an_adapter(tmp_path: Path, label: str) -> None:
    """Bloom's passes a LayerNorm, whose bias comes to the stream as it is."""
    config = zoo_config(label)
    config.tie_word_embeddings = False
    model = ZOO[label].auto.from_config(config, dtype=torch.float32).eval()
    randomise(model)
    model.save_pretrained(tmp_path / "in")
    hold_together(label, tmp_path / "in", Edit.ablation(tmp_path / "in", orthonormal(2), 0.7), tmp_path)


@pytest.mark.parametrize("label", ["llama:bias", "gpt2", "gemma2", "gpt_neo"])
def test_norm_mode_row_is_exact_as_dora(zoo_of, tmp_path: Path, label: str) -> None:
    folder = zoo_of(label)
    hold_together(label, folder, untied(Edit.ablation(folder, orthonormal(2), norm="row"), folder), tmp_path)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["use_dora"] is True


def test_ranks_strengths_and_norm_modes_differ_from_writer_to_writer(zoo_of, tmp_path: Path) -> None:
    folder, rows = zoo_of("llama"), orthonormal(4)
    edit = mixed(
        folder,
        Operation("embedding", None, rows[:1], torch.tensor([1.5])),
        Operation("attention", 0, rows[:2], torch.tensor([1.0, -0.5])),
        Operation("attention", 1, rows[:3], torch.tensor([1.0, 0.0, 0.2])),
        Operation("mlp", 1, rows[1:2], torch.tensor([0.0])),
        Operation("mlp", 3, rows, torch.tensor([2.0, 0.3, 1.0, 1.0])),
    )
    hold_together("llama", folder, edit, tmp_path / "lora")
    tensors = load_file(tmp_path / "lora" / "adapter" / "adapter_model.safetensors")
    ranks = {
        name.split(".lora_")[0].rsplit("model.", 1)[-1]: min(value.shape) for name, value in tensors.items()
    }
    # A direction of strength 0 has no rank, and an idle operation no module.
    assert ranks == {
        "embed_tokens": 1,
        "layers.0.self_attn.o_proj": 2,
        "layers.1.self_attn.o_proj": 2,
        "layers.3.mlp.down_proj": 4,
    }
    row = Operation("mlp", 2, rows[:2], torch.tensor([1.0, 0.4]), "row")
    hold_together("llama", folder, Edit(edit.base, (*edit.operations, row)), tmp_path / "dora")


@pytest.mark.parametrize("label", ["mixtral", "gpt_oss", "llama4_text"])
def test_single_experts_keep_their_own_operations(zoo_of, tmp_path: Path, label: str) -> None:
    folder, rows = zoo_of(label), orthonormal(3)
    layer = 1
    edit = mixed(
        folder,
        Operation("experts", layer, rows[:2], torch.tensor([1.0, 0.5]), expert=0),
        Operation("experts", layer, rows[2:], torch.tensor([1.0]), expert=2),
    )
    hold_together(label, folder, edit, tmp_path)


# Biases and additions


def test_biases_go_with_the_adapter_where_every_module_has_one(zoo_of, tmp_path: Path) -> None:
    folder = zoo_of("llama:bias")
    edit = Edit.ablation(folder, orthonormal(2), embeddings=False)
    hold_together("llama:bias", folder, edit, tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["lora_bias"], config["bias"]) == (True, "none")
    model, base = (
        loaded(zoo_load("llama:bias", folder), tmp_path / "adapter"),
        zoo_logits(zoo_load("llama:bias", folder)),
    )
    with model.disable_adapter():
        torch.testing.assert_close(zoo_logits(model), base)


def test_biases_are_whole_beside_an_embedding_and_the_receipt_says_so(zoo_of, tmp_path: Path) -> None:
    folder = zoo_of("llama:bias")
    receipt = write_lora(Edit.ablation(folder, orthonormal(2)), folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["lora_bias"], config["bias"]) == (False, "lora_only")
    assert any("8 biases are in the adapter whole" in note for note in receipt.notes)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_an_addition_goes_into_a_bias(zoo_of, tmp_path: Path, strength: float) -> None:
    """As a change alone, and whole beside an embedding."""
    folder, one = zoo_of("llama:bias"), torch.ones(1)
    steer = Operation("mlp", 1, orthonormal(1), strength * one, addition=3 * orthonormal(1, 5)[0])
    beside = [Operation("embedding", None, orthonormal(1), one)] if strength else []
    hold_together("llama:bias", folder, mixed(folder, steer, *beside), tmp_path)
