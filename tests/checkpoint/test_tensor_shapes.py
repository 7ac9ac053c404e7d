"""Readers, norms and the head of another shape are refused by name before a bake copies them.
transformers is the oracle: it does not load what is refused here.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LAYERS, VOCAB, WIDTH, build, load, unit

from vectomy import Edit, bake, plan
from vectomy.architecture import check_covered, resolve
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.errors import CheckpointError
from vectomy.models.weights import check_class, skeleton

TIER = "tiny"

SINGLE = "model.safetensors"
LAYER = "model.layers.1."

WRONG: dict[str, tuple[str, tuple[int, ...], list[int]]] = {
    "query": (f"{LAYER}self_attn.q_proj.weight", (24, WIDTH), [32, 32]),
    "key": (f"{LAYER}self_attn.k_proj.weight", (8, WIDTH), [16, 32]),
    "value-width": (f"{LAYER}self_attn.v_proj.weight", (16, 40), [16, 32]),
    "gate": (f"{LAYER}mlp.gate_proj.weight", (40, WIDTH), [48, 32]),
    "up-transposed": (f"{LAYER}mlp.up_proj.weight", (WIDTH, 48), [48, 32]),
    "norm": (f"{LAYER}input_layernorm.weight", (31,), [32]),
    "norm-matrix": (f"{LAYER}post_attention_layernorm.weight", (1, WIDTH), [32]),
    "last-norm": ("model.norm.weight", (33,), [32]),
    "head-width": ("lm_head.weight", (VOCAB, 31), [97, 32]),
    "head-rows": ("lm_head.weight", (VOCAB - 1, WIDTH), [97, 32]),
    "writer-input": (f"{LAYER}mlp.down_proj.weight", (WIDTH, 40), [32, 48]),
}


def change(folder: Path, **tensors: torch.Tensor) -> Path:
    stored = load_file(folder / SINGLE) | {name.replace("__", "."): value for name, value in tensors.items()}
    save_file(stored, folder / SINGLE, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("case", WRONG)
def test_a_tensor_of_another_shape_is_refused_with_the_expected_one(case: str, tmp_path: Path) -> None:
    name, shape, expected = WRONG[case]
    folder = build(tmp_path / "in", "llama").folder
    edit = Edit.ablation(folder, unit())
    change(folder, **{name: torch.ones(shape)})
    with pytest.raises(RuntimeError, match=r"ismatched|size mismatch|shape"):
        load(folder)
    message = (
        f"'{re.escape(name)}' has shape {re.escape(str(list(shape)))}, and {re.escape(str(expected))} is"
    )
    with pytest.raises(CheckpointError, match=message):
        plan(folder)
    with pytest.raises(CheckpointError, match=message):
        bake(edit, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["self_attn.k", "self_attn.v", "self_attn.q", "mlp.up", "mlp.gate"])
def test_projections_are_those_of_the_configuration(part: str, tmp_path: Path) -> None:
    """All layers agree with each other, and none with config.json."""
    folder = build(tmp_path / "in", "llama").folder
    names = [f"model.layers.{layer}.{part}_proj.weight" for layer in range(LAYERS)]
    change(folder, **{name: torch.ones(24, WIDTH) for name in names})
    with pytest.raises(CheckpointError, match=rf"0\.{re.escape(part)}_proj.*config\.json says"):
        check_covered(architecture_in(Checkpoint.open(folder)))


@pytest.mark.parametrize("name", ["mlp.up_proj.weight", "self_attn.q_proj.weight", "input_layernorm.weight"])
def test_a_reader_that_one_layer_lacks_is_named(name: str, tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama").folder
    stored = load_file(folder / SINGLE)
    del stored[LAYER + name]
    save_file(stored, folder / SINGLE, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=f"lacks '{re.escape(LAYER + name)}', which every other layer has"
    ):
        plan(folder)


def test_a_lacking_last_norm_is_named(tmp_path: Path) -> None:
    folder = build(tmp_path / "in", "llama").folder
    stored = load_file(folder / SINGLE)
    del stored["model.norm.weight"]
    save_file(stored, folder / SINGLE, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no norm behind the last block \('model.norm.weight'"):
        check_covered(architecture_in(Checkpoint.open(folder)))


def test_a_layer_of_another_kind_lacks_nothing() -> None:
    """As the dense first layer of a mixture of experts, of which config.json says nothing."""
    shapes = {f"{name}.weight": (VOCAB, WIDTH) for name in ("model.embed_tokens", "lm_head")}
    shapes["model.norm.weight"] = (WIDTH,)
    for layer in range(LAYERS):
        inside = {"self_attn.o_proj": (WIDTH, WIDTH), "self_attn.k_proj": (16, WIDTH)}
        inside |= {"mlp.up_proj": (48, WIDTH), "mlp.down_proj": (WIDTH, 48)}
        inside |= {"mlp.shared_expert_gate": (1, WIDTH)} if layer else {"self_attn.q_norm": (8,)}
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in inside.items()}
    config = {"model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": VOCAB}
    check_covered(resolve({**config, "tie_word_embeddings": False}, shapes))


@pytest.mark.parametrize(
    ("model_type", "part"),
    [("qwen2", "q_proj.bias"), ("qwen3", "q_norm.weight"), ("llama", "up_proj.weight")],
)
def test_readers_that_every_layer_lacks_are_named_by_the_model_class(
    model_type: str, part: str, tmp_path: Path
) -> None:
    """Names and shapes do not tell: plan and every command that loads the model ask its class."""
    folder = build(tmp_path / "in", model_type).folder
    stored = load_file(folder / SINGLE)
    kept = {name: value for name, value in stored.items() if not name.endswith(part)}
    save_file(kept, folder / SINGLE, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"lacks 'model\.layers\.0.*{part}', which the model class"):
        plan(folder)


@pytest.mark.zoo
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3_moe", "gemma3", "mixtral"])
def test_a_whole_checkpoint_is_what_its_class_loads(zoo_of: Any, model_type: str) -> None:
    checkpoint = Checkpoint.open(zoo_of(model_type))
    check_class(skeleton(checkpoint, "float32", trust_remote_code=False), checkpoint)


def test_layers_that_the_configuration_tells_apart_may_differ() -> None:
    """Every second layer has heads of another size, as in Gemma 4."""
    shapes = {f"{name}.weight": (VOCAB, WIDTH) for name in ("model.embed_tokens", "lm_head")}
    shapes["model.norm.weight"] = (WIDTH,)
    for layer in range(LAYERS):
        rows = 16 if layer % 2 else 8
        inside = {"self_attn.k_proj": (rows, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH)}
        inside["mlp.down_proj"] = (WIDTH, 48)
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in inside.items()}
    config = {"model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "vocab_size": VOCAB}
    config["tie_word_embeddings"] = False
    with pytest.raises(CheckpointError, match=r"1\.self_attn\.k_proj"):
        check_covered(resolve(config, shapes))
    for told in (
        {"layer_types": ["sliding_attention", "full_attention"] * 2},
        {"global_layers": [1, 3]},
        {"full_attention_interval": 2},
        {"block_types": ["recurrent", "attention"]},
        {"overrides": {"1": {"heads": 4}, "3": {"heads": 4}}},
    ):
        check_covered(resolve(config | told, shapes))
    # Identifiers of tokens are no layers.
    with pytest.raises(CheckpointError, match=r"1\.self_attn\.k_proj"):
        check_covered(resolve(config | {"eos_token_id": [1, 3]}, shapes))


def test_a_resized_vocabulary_is_one_model(tmp_path: Path) -> None:
    """Embedding and head have rows that config.json does not count."""
    folder = build(tmp_path / "in", "llama").folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": VOCAB - 5}))
    check_covered(architecture_in(Checkpoint.open(folder)))
