"""An adapter computes what hooks and baked weights do, in PEFT and merged, and what it cannot hold
it refuses by name.

PEFT itself is the oracle: it loads the folder into the base model, and its merged weights are the
baked ones.
"""

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer, ParamWrapper
from safetensors.torch import load_file, save_file
from tiny import file_hashes, hooked
from torch import Tensor, nn
from transformers import PreTrainedModel
from zoo import D_MODEL, ZOO, randomise, zoo_config, zoo_folder, zoo_load, zoo_logits, zoo_model

from vectomy.architecture import architecture_of
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.checkpoint.quantization import mxfp4
from vectomy.core.errors import ArtifactError, DiskFullError, EditError, FingerprintError
from vectomy.core.types import COMPONENTS
from vectomy.edits.edit import BaseModelRef, Edit, Operation
from vectomy.edits.export import bake, write_lora
from vectomy.edits.export import peft_targets as forms

TIER = "zoo"

CLOSE = 1e-4


def orthonormal(k: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(D_MODEL, k, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn)[0].T.contiguous()


@pytest.fixture(scope="session")
def zoo_of(tmp_path_factory: pytest.TempPathFactory):
    """`zoo_of(label)`: the folder of a zoo model, built once a session."""
    built: dict[str, Path] = {}

    def of(label: str) -> Path:
        if label not in built:
            built[label] = zoo_folder(label, tmp_path_factory.mktemp("zoo"))
        return built[label]

    return of


def untied(edit: Edit, folder: Path) -> Edit:
    """Less the token embedding, where the head shares it."""
    tied = architecture_in(Checkpoint.open(folder)).tied
    return edit.only(components=[name for name in COMPONENTS if name != "embedding"]) if tied else edit


def loaded(base: PreTrainedModel, adapter: Path) -> PeftModel:
    with warnings.catch_warnings():
        # Keys that PEFT misses are a warning only. Its other one, of ranks of parameters that it
        # ignores, is not true.
        warnings.filterwarnings("error", message=".*(missing adapter keys|no module was matched).*")
        return PeftModel.from_pretrained(base, str(adapter))


def apart(value: Tensor, wanted: Tensor) -> float:
    return ((value - wanted).abs().max() / wanted.abs().max()).item()


def wrapped(model: nn.Module) -> set[str]:
    """Writers that PEFT wraps, by the name of their parameter."""
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            parameter = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            found.add(name.removeprefix("base_model.model.").replace(".base_layer", "") + f".{parameter}")
    return found


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


def mixed(folder: Path, *operations: Operation) -> Edit:
    return Edit(BaseModelRef.of(Checkpoint.open(folder)), operations)


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


# What cannot be held is refused by name


def refused(folder: Path, edit: Edit, out: Path, match: str) -> None:
    with pytest.raises(EditError, match=match):
        write_lora(edit, folder, out / "adapter")
    assert not list(out.iterdir())


def test_a_tied_embedding_is_refused_for_a_merge_would_change_the_head(
    zoo_of, tmp_path: Path, monkeypatch
) -> None:
    folder = zoo_of("llama:tied")
    edit = Edit.ablation(folder, orthonormal(1))
    refused(
        folder,
        edit,
        tmp_path,
        r"^embedding: 'model\.embed_tokens\.weight' is tied to the head.*embeddings=False",
    )
    monkeypatch.setattr(forms, "_check", lambda *_: None)
    write_lora(edit, folder, tmp_path / "adapter")
    with edit.hooks(base := zoo_load("llama:tied", folder)):
        wanted = zoo_logits(base)
    model = loaded(zoo_load("llama:tied", folder), tmp_path / "adapter")
    assert apart(zoo_logits(model), wanted) < CLOSE
    merged = model.merge_and_unload()
    assert torch.equal(merged.lm_head.weight, merged.model.embed_tokens.weight)
    assert apart(zoo_logits(merged), wanted) > 0.01


def test_a_dense_module_beside_experts_is_targeted_by_its_weight(zoo_of, tmp_path: Path, monkeypatch) -> None:
    """By its name PEFT edits the experts of all layers instead."""
    folder = zoo_of("deepseek_v3")
    edit = Edit.ablation(folder, orthonormal(1)).only(layers=[0], components=["mlp"])
    bake(edit, folder, tmp_path / "baked")
    wanted = zoo_logits(zoo_load("deepseek_v3", tmp_path / "baked"))
    write_lora(edit, folder, tmp_path / "weight")
    assert apart(zoo_logits(loaded(zoo_load("deepseek_v3", folder), tmp_path / "weight")), wanted) < CLOSE
    monkeypatch.setattr(forms, "_form", lambda *_: "linear")
    write_lora(edit, folder, tmp_path / "module")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(zoo_load("deepseek_v3", folder), str(tmp_path / "module"))
    assert "model.layers.0.mlp.down_proj.weight" not in wrapped(model)
    assert apart(zoo_logits(model), wanted) > 0.01


@pytest.mark.parametrize(
    ("label", "options", "match"),
    [
        ("llama", {"norm": "column"}, r"norm mode column.*full rank.*bake"),
        ("gpt_oss", {"norm": "row"}, r"layer 0 experts: norm mode row.*DoRA.*mlp\.experts\.down_proj.*bake"),
        ("opt", {"norm": "row"}, r"position: norm mode row.*embed_positions"),
        ("mamba2", {}, r"layer 0 ssm: PEFT takes no adapter on 'backbone\.layers\.0\.mixer\.out_proj'.*bake"),
        ("dbrx", {}, r"layer 0 experts: PEFT .*mlp\.w2.*dbrx.*bake"),
        ("laguna", {}, r"layer 1 shared_experts: PEFT loses.*laguna.*leave such writers out"),
    ],
)
def test_what_peft_cannot_do_exactly_is_refused(
    zoo_of, tmp_path: Path, label: str, options: dict[str, str], match: str
) -> None:
    folder = zoo_of(label)
    refused(folder, untied(Edit.ablation(folder, orthonormal(1), **options), folder), tmp_path, match)


def test_additions_without_a_bias_and_on_experts_are_refused(zoo_of, tmp_path: Path) -> None:
    zero, vector = torch.zeros(1), orthonormal(1)[0]
    steer = Operation("mlp", 1, orthonormal(1), zero, addition=vector)
    refused(
        zoo_of("llama"), mixed(zoo_of("llama"), steer), tmp_path, r"layers\.1\.mlp\.down_proj' has no bias"
    )
    steer = Operation("experts", 1, orthonormal(1), zero, addition=vector)
    refused(zoo_of("gpt_oss"), mixed(zoo_of("gpt_oss"), steer), tmp_path, r"layer 1 experts.*token by token")


@pytest.mark.parametrize("factor", [0, None])
def test_an_edit_that_changes_nothing_is_refused(zoo_of, tmp_path: Path, factor: int | None) -> None:
    folder = zoo_of("llama")
    edit = (
        Edit.ablation(folder, orthonormal(1)).only(layers=[99]) if factor is None else mixed(folder) * factor
    )
    refused(folder, edit, tmp_path, "changes nothing.*rank 1")


def test_a_row_that_dora_cannot_divide_by_is_refused(zoo_of, tmp_path: Path) -> None:
    axis = torch.eye(D_MODEL)[5:6]
    edit = mixed(zoo_of("llama"), Operation("mlp", 1, axis, torch.ones(1), "row"))
    refused(
        zoo_of("llama"), edit, tmp_path, r"row 5 of 'model\.layers\.1\.mlp\.down_proj\.weight'.*none, or bake"
    )


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
