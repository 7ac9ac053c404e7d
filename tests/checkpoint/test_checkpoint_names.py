"""What a checkpoint's names say of it, with transformers as the oracle: what it loads is edited,
what it leaves out is kept and listed, and what it would fill at random is refused with the cause.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ROUNDING, build, load, logits, unit
from transformers import AutoModel, AutoModelForCausalLM

from vectomy.architecture import architecture_of, check_covered, excluded_tensors, resolve
from vectomy.architecture.other_models import explain_other_model
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.errors import ArchitectureError, CheckpointError, VectomyError
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake

TIER = "tiny"

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD, EMBEDDING, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"


def change_names(folder: Path, change: Callable[[dict], dict]) -> None:
    tensors = change(load_file(folder / SINGLE))
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def check(folder: Path) -> None:
    check_covered(architecture_in(Checkpoint.open(folder)))


def edited_alike(folder: Path, out: Path) -> None:
    """The baked copy computes what hooks compute on the model as transformers loads it."""
    edit = Edit.ablation(folder, unit())
    live = load(folder)
    bake(edit, folder, out)
    with edit.hooks(live):
        expected = logits(live)
    torch.testing.assert_close(logits(load(out)), expected, **ROUNDING)
    assert not torch.allclose(logits(load(folder)), expected, atol=1e-2)


# Tensors that the model class never loads

UNUSED = {
    "value-head": {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)},
    "reward-head": {"score.weight": torch.ones(1, 32)},
    "own-module": {"projector.linear.weight": torch.ones(32, 32)},
    "layer-behind": {"model.layers.4.mlp.down_proj.weight": torch.ones(32, 48)},
    "more-tokens": {"mtp.fc.weight": torch.ones(32, 64)},
}


@pytest.mark.parametrize("kind", UNUSED)
def test_what_transformers_never_loads_is_kept_and_listed(kind: str, tmp_path: Path) -> None:
    folder, extra = build(tmp_path / "in", "llama").folder, UNUSED[kind]
    change_names(folder, lambda tensors: tensors | extra)
    info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)[1]
    assert set(info["unexpected_keys"]) | {"mtp.fc.weight"} >= set(extra)
    listed = dict(excluded_tensors(architecture_in(Checkpoint.open(folder))))
    assert listed.keys() == extra.keys()
    edited_alike(folder, tmp_path / "out")
    after = load_file(tmp_path / "out" / SINGLE)
    assert all(torch.equal(after[name], value) for name, value in extra.items())


@pytest.mark.parametrize(
    "name", ["model.vision.weight", "model.layers.1.other.weight", "layers.1.mlp.down_proj.weight"]
)
def test_what_a_model_class_may_load_is_refused(name: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama").folder
    change_names(folder, lambda tensors: tensors | {name: torch.ones(32, 48)})
    with pytest.raises(ArchitectureError, match=f"'{re.escape(name)}' is not known.*remove it from the file"):
        check(folder)


def test_with_code_of_its_own_every_tensor_has_to_be_known(tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama").folder
    change_names(folder, lambda tensors: tensors | UNUSED["own-module"])
    configure(folder, auto_map={"AutoModelForCausalLM": "modeling.Own"})
    with pytest.raises(ArchitectureError, match="projector"):
        check(folder)


# Names with something in front of them, or inside of them


def wrap(prefix: str) -> Callable[[dict], dict]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def adapt(tensors: dict) -> dict:
    renamed = {name.replace("o_proj.weight", "o_proj.base_layer.weight"): v for name, v in tensors.items()}
    return renamed | {"model.layers.0.self_attn.o_proj.lora_A.default.weight": torch.ones(4, 32)}


RENAMED: dict[str, tuple[Callable[[dict], dict], str]] = {
    "compiled": (wrap("_orig_mod."), r"'_orig_mod\.', as torch\.compile"),
    "parallel": (wrap("module."), r"'module\.', as DataParallel"),
    "peft": (wrap("base_model.model."), r"'base_model\.model\.', as PEFT"),
    "text-part": (wrap("language_model."), r"'language_model\.', as a multimodal model"),
    "unknown-wrapper": (wrap("net.inner."), r"'net\.inner\.' under which"),
    "sharded-blocks": (
        lambda t: {n.replace(".self_attn", "._fsdp_wrapped_module.self_attn"): v for n, v in t.items()},
        r"'_fsdp_wrapped_module\.', as FSDP",
    ),
    "never-merged": (adapt, "adapter that was never merged.*merge_and_unload"),
    "adapter-beside": (
        lambda t: t | {"model.layers.0.self_attn.o_proj.lora_A.default.weight": torch.ones(4, 32)},
        "part of an adapter",
    ),
    "maker": (
        lambda t: {n.replace("model.embed_tokens", "tok_embeddings"): v for n, v in t.items()},
        "Meta's and Mistral's own layout",
    ),
    "packed": (
        lambda t: {
            n.replace("down_proj.weight", "down_proj.qweight"): v for n, v in t.items() if "o_proj" not in n
        },
        "packed.*bfloat16 release",
    ),
    "no-embedding": (
        lambda t: {n: v for n, v in t.items() if n != EMBEDDING},
        "left out when the model was saved",
    ),
    "left-out": (
        lambda t: {n: v for n, v in t.items() if n != "model.layers.2.mlp.down_proj.weight"},
        "left out when the model was saved",
    ),
    "no-layer": (
        lambda t: {n: v for n, v in t.items() if "layers.3." not in n},
        "no tensor of layer 3.*config.json says 4 layers",
    ),
}


@pytest.mark.parametrize("kind", RENAMED)
def test_lacking_tensors_are_explained_and_no_download_is_blamed(kind: str, tmp_path: Path) -> None:
    change, message = RENAMED[kind]
    folder = build(tmp_path / "in", "llama").folder
    change_names(folder, change)
    with pytest.raises(VectomyError, match=message) as error:
        check(folder)
    assert "download complete" not in str(error.value)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt_neox"])
def test_a_save_of_the_base_class_is_loaded_as_in_transformers(
    model_type: str, tied: bool, tmp_path: Path
) -> None:
    folder = build(tmp_path / "in", model_type, tied=tied).folder
    # AutoModel's own names, and the head where one is needed.
    state = load_file(folder / SINGLE)
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "bare")
    configure(tmp_path / "bare", architectures=["LlamaForCausalLM"])
    if tied:
        edited_alike(tmp_path / "bare", tmp_path / "out")
    else:
        with pytest.raises(CheckpointError, match="AutoModelForCausalLM"):
            check(tmp_path / "bare")
        heads = {name: value for name, value in state.items() if name in (HEAD, "embed_out.weight")}
        change_names(tmp_path / "bare", lambda tensors: tensors | heads)
        edited_alike(tmp_path / "bare", tmp_path / "out")


def test_an_embedding_that_only_a_tied_head_holds_is_asked_for(tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama", tied=True).folder
    change_names(folder, lambda tensors: {HEAD if n == EMBEDDING else n: v for n, v in tensors.items()})
    with pytest.raises(CheckpointError, match="only the head 'lm_head"):
        check(folder)


def test_the_head_of_a_reward_model_is_no_head_of_a_language_model(tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama").folder
    change_names(
        folder, lambda t: {n: v for n, v in t.items() if n != HEAD} | {"score.weight": torch.ones(1, 32)}
    )
    with pytest.raises(CheckpointError, match="classifier or reward model"):
        check(folder)


@pytest.mark.parametrize("shape", [(32, 48, 1), (32, 0), (32,), ()])
def test_a_writer_that_is_no_matrix_is_refused_when_the_folder_is_opened(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    folder = build(tmp_path / "in", "llama").folder
    change_names(folder, lambda t: t | {"model.layers.1.mlp.down_proj.weight": torch.ones(shape)})
    with pytest.raises(CheckpointError, match="the weights are of different models"):
        check(folder)


def test_names_of_another_model_type_and_packing_of_mlx_are_named(tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama").folder
    configure(folder, model_type="gpt2", n_embd=32, n_layer=4)
    with pytest.raises(CheckpointError, match="named as in Llama"):
        check(folder)
    configure(folder, model_type="llama", quantization_config={"group_size": 64, "bits": 4})
    with pytest.raises(ArchitectureError, match="method 'MLX'"):
        check(folder)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_config_in_another_encoding_is_no_broken_download(encoding: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama").folder
    (folder / "config.json").write_text((folder / "config.json").read_text(), encoding=encoding)
    with pytest.raises(CheckpointError, match="save it as UTF-8"):
        check(folder)


# Tied or not, by values


@pytest.mark.parametrize("where", ["first", "last", "nowhere"])
def test_a_stored_head_is_tied_where_its_values_are_the_embeddings(where: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama", tied=True).folder

    def store(tensors: dict) -> dict:
        head = tensors[EMBEDDING].clone()
        if where != "nowhere":
            head[0 if where == "first" else -1, -1] += 1
        return tensors | {HEAD: head}

    change_names(folder, store)
    arch, live = architecture_in(Checkpoint.open(folder)), architecture_of(load(folder))
    assert arch.tied is live.tied is (where == "nowhere")


def test_an_untied_model_is_untied_alive_and_stored(tmp_path: Path) -> None:
    for tied in (True, False):
        tiny = build(tmp_path / str(tied), "llama", tied=tied)
        assert architecture_in(Checkpoint.open(tiny.folder)).tied is tied
        assert architecture_of(tiny.model).tied is tied


# Indices and two sets of weights


def test_a_tensor_that_the_index_omits_is_read_edited_and_noted(tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama", sharded=True).folder
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["model.layers.1.mlp.down_proj.weight"]
    (folder / INDEX).write_text(json.dumps(index))
    edited_alike(folder, tmp_path / "out")
    assert "omits 'model.layers.1.mlp.down_proj.weight'" in Checkpoint.open(folder).notes[0]


def test_of_two_sets_of_weights_both_are_named(tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama", sharded=True).folder
    packed = {
        EMBEDDING: torch.zeros(97, 8, dtype=torch.uint8),
        "model.embed_tokens.scales": torch.zeros(97, 2),
    }
    save_file(packed, folder / SINGLE, metadata={"format": "mlx"})
    with pytest.raises(CheckpointError, match=f"two sets of weights, {SINGLE} and the shards of {INDEX}"):
        check(folder)


# No language model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "new", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "does not generate text"),
        ({"_class_name": "UNet2DConditionModel"}, "diffusion"),
        ({"peft_type": "LORA"}, "PEFT adapter"),
        ({}, "names no model_type"),
    ],
)
def test_what_is_no_language_model_is_named(config: dict, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        resolve(config)


def test_a_language_model_that_is_not_known_yet_is_only_unknown() -> None:
    assert explain_other_model({"model_type": "brand_new", "architectures": ["NewForCausalLM"]}) is None
    with pytest.raises(ArchitectureError, match="'brand_new' is not known"):
        resolve({"model_type": "brand_new"})
