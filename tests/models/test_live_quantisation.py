"""Weights quantised by bitsandbytes while the model runs (--load-in)."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from quantised_folder import decoded_copy, quantised
from tiny import build, unit

from vectomy.architecture import architecture_of
from vectomy.architecture.live_weights import is_packed, read_live_shapes
from vectomy.checkpoint import Checkpoint
from vectomy.core.config import Runtime
from vectomy.core.errors import ConfigError, ModelError, PreflightError
from vectomy.core.run_config import make_config
from vectomy.edits.edit import Edit
from vectomy.models import (
    ChatModel,
    count_weight_bytes,
    describe_precision,
    explain_decoding,
    explain_divided,
    live_quantisation,
    load_model,
    memory,
)
from vectomy.models.live_quantisation import can_learn_through, decode_packed
from vectomy.models.loading_faults import explain_loading
from vectomy.models.weights import read_model_config
from vectomy.workflows.direction import find_direction
from vectomy.workflows.evaluate import evaluate_models
from vectomy.workflows.run import run

TIER = "chat"
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the package bitsandbytes is not installed"
)
BITS = pytest.mark.parametrize("load_in", ["4bit", "8bit"])


def load(load_in: str | None, folder: Path | None = None, **options: Any) -> ChatModel:
    return load_model(folder or tiny_chat.folder(), device="cpu", load_in=load_in, name="t", **options)


@needs_bitsandbytes
@BITS
def test_linear_layers_of_blocks_are_packed_and_nothing_else(load_in: str) -> None:
    chat = load(load_in)
    packed = {name for name, module in chat.model.named_modules() if is_packed(module)}
    plain = {name for name, module in load(None).model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert packed == plain - {"lm_head"}
    assert architecture_of(chat.model).writers == architecture_of(load(None).model).writers


@needs_bitsandbytes
@BITS
def test_it_computes_the_same_with_and_without_gradients(load_in: str) -> None:
    """The search measures without, and learns with them."""
    chat = load(load_in)
    ids = torch.tensor(chat.tokens(tiny_chat.prompts(tiny_chat.NIGHT, 3)))
    with torch.inference_mode():
        before = chat.hidden(type("Pass", (), {"inputs": lambda _self: {"input_ids": ids}})())
    embedded = chat.model.get_input_embeddings()(ids).detach().requires_grad_()
    learned = chat.model.base_model(inputs_embeds=embedded).last_hidden_state
    torch.testing.assert_close(learned, before, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(learned.sum(), embedded)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) > 0
    with torch.inference_mode():
        again = chat.model.base_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(again, before, rtol=0, atol=0)


@needs_bitsandbytes
@pytest.mark.parametrize("norm", ["none", "row", "column"])
def test_hooks_compute_what_they_compute_on_the_unpacked_weights(norm: str) -> None:
    chat, oracle = load("4bit"), load(None)
    from bitsandbytes.functional import dequantize_4bit

    state = {
        f"{name}.weight": dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        for name, module in chat.model.named_modules()
        if is_packed(module)
    }
    oracle.model.load_state_dict(state, strict=False)
    edit = Edit.ablation(chat.checkpoint, unit(5, chat.architecture.d_model), 0.8, norm=norm)
    ids = torch.tensor(chat.tokens(tiny_chat.prompts(tiny_chat.NIGHT, 2)))
    with torch.no_grad(), edit.hooks(chat.model), edit.hooks(oracle.model):
        torch.testing.assert_close(chat.model(ids).logits, oracle.model(ids).logits, rtol=1e-4, atol=1e-4)


@needs_bitsandbytes
@BITS
@pytest.mark.parametrize("model_type", ["gpt2", "mamba2", "gemma2"])
def test_transposed_layers_and_direct_kernels_are_edited_too(
    model_type: str, load_in: str, zoo_of: Any
) -> None:
    """GPT-2's layers are transposed before they are packed; Mamba's kernels take weights
    themselves, so those stay plain.
    """
    chat = load(load_in, zoo_of(model_type), tokenizer=False)
    ids = torch.arange(4, 24)[None]
    edit = Edit.ablation(chat.checkpoint, unit(5, chat.architecture.d_model), norm="row")
    with torch.no_grad():
        plain = chat.model(ids).logits
        with edit.hooks(chat.model):
            edited = chat.model(ids).logits
        after = chat.model(ids).logits
    assert not torch.allclose(edited, plain, atol=1e-4)
    torch.testing.assert_close(after, plain, rtol=0, atol=0)


@needs_bitsandbytes
@BITS
def test_the_count_of_bytes_is_that_of_the_live_tensors(load_in: str, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 64}
    config = LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=8, dtype="float32")
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    chat = load(load_in, tmp_path, tokenizer=False)
    count = 0
    for module in chat.model.modules():
        own = [*module.parameters(recurse=False)]
        if is_packed(module) and load_in == "4bit":
            state = module.weight.quant_state
            own += [state.absmax, state.state2.absmax]
        elif is_packed(module):
            own += [module.weight.SCB]
        count += sum(value.numel() * value.element_size() for value in own)
    assert count_weight_bytes(chat.architecture, 4, load_in) == pytest.approx(count, rel=0.001)
    whole = count_weight_bytes(chat.architecture, 4)
    assert whole == pytest.approx(chat.checkpoint.bytes, rel=0.001)
    assert count < whole / 3


def test_without_bitsandbytes_the_extra_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else real(name, *rest)
    )
    missing = r"--load-in 4bit needs the package bitsandbytes: pip install 'vectomy\[quantised\]'"
    absent = str(tmp_path / "no-such-model")
    with pytest.raises(PreflightError, match=missing):
        run(absent, tmp_path / "run", load_in="4bit")
    with pytest.raises(PreflightError, match=missing):
        evaluate_models([absent], tmp_path / "evaluation", prompts=("none.txt",), load_in="4bit")
    with pytest.raises(ModelError, match=missing):
        load_model(absent, load_in="4bit")
    assert not list(tmp_path.iterdir())


@needs_bitsandbytes
@BITS
@pytest.mark.parametrize(
    ("kind", "model_type"), [("block", "llama"), ("tensor", "llama"), ("mxfp4", "gpt_oss:square")]
)
def test_packed_weights_are_decoded_and_quantised_again(
    kind: str, model_type: str, load_in: str, tmp_path: Path, zoo_of: Any
) -> None:
    """As the plain weights that the packed ones mean."""
    packed = quantised(zoo_of(model_type), kind, tmp_path)
    chat = load(load_in, packed.path, tokenizer=False, dtype="float32")
    plain = load(load_in, decoded_copy(packed, tmp_path / "plain"), tokenizer=False, dtype="float32")
    assert any(is_packed(module) for module in chat.model.modules())
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(chat.model(ids).logits, plain.model(ids).logits, rtol=0, atol=0)
    note = explain_decoding(packed, describe_precision(chat.model)) or ""
    assert f"quantised again in memory, to {load_in}" in note


@needs_bitsandbytes
def test_a_direction_is_read_layer_by_layer_or_quantised(tmp_path: Path) -> None:
    config = make_config(str(tiny_chat.folder()), {**tiny_chat.sources(), "device": "cpu", "load_in": "4bit"})
    with pytest.raises(ConfigError, match="--layerwise yes reads it layer by layer in full precision"):
        find_direction(config, tmp_path / "d.safetensors", stream="yes")
    found = find_direction(config, tmp_path / "d.safetensors")
    full = find_direction(
        make_config(str(tiny_chat.folder()), {**tiny_chat.sources(), "device": "cpu"}),
        tmp_path / "d.safetensors",
    )
    assert 0.9 < float(found.vector @ full.vector) < 0.99999


def test_quantised_weights_are_not_divided_over_processes() -> None:
    assert explain_divided(Runtime(load_in="4bit")) is None
    assert explain_divided(Runtime(tensor_parallel=True)) is None
    refused = explain_divided(Runtime(load_in="4bit", tensor_parallel=True)) or ""
    assert "--tensor-parallel divides plain matrices, and --load-in 4bit packs them; leave one" in refused


def test_hashes_of_results_in_full_precision_are_those_of_before() -> None:
    assert Runtime().list_precision() == ["auto", "auto", False]
    assert Runtime(load_in="4bit").list_precision() == ["auto", "auto", False, "4bit"]


# Checkpoints that are quantised already


class Quantiser:
    """What the loader asks of a quantiser of transformers."""

    def __init__(self, method: str, trainable: bool) -> None:
        self.quantization_config = type("Settings", (), {"quant_method": method})()
        self.is_trainable = trainable


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(
    ("method", "trainable", "with_kernels", "without"),
    [
        ("fp8", True, True, False),
        ("mxfp8", True, True, False),
        ("mxfp4", False, False, False),
        ("compressed-tensors", False, False, False),
        ("compressed-tensors", True, True, True),
    ],
)
def test_packed_weights_stay_where_gradients_pass_them(
    monkeypatch: pytest.MonkeyPatch,
    kernels: bool,
    method: str,
    trainable: bool,
    with_kernels: bool,
    without: bool,
) -> None:
    monkeypatch.setattr(live_quantisation, "has_kernels", lambda: kernels)
    expected = with_kernels if kernels else without
    assert can_learn_through(Quantiser(method, trainable)) is expected


@pytest.mark.parametrize(
    ("kind", "model_type"), [("block", "llama"), ("tensor", "llama"), ("mxfp4", "gpt_oss:square")]
)
def test_a_stored_format_without_kernels_is_decoded_on_loading(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, zoo_of: Any, kind: str, model_type: str
) -> None:
    """As transformers reads the folder: asked for plain weights by name, whatever the device."""
    monkeypatch.setattr(live_quantisation, "has_kernels", lambda: False)
    packed = quantised(zoo_of(model_type), kind, tmp_path)
    config = read_model_config(packed, trust_remote_code=False)
    (chosen,) = decode_packed(config).values()
    assert chosen.dequantize is True
    monkeypatch.setattr(live_quantisation, "has_kernels", lambda: True)
    stays = decode_packed(config) == {}
    assert stays is (kind != "mxfp4")
    assert decode_packed(type("Plain", (), {})()) == {}


def test_the_note_of_decoded_weights_names_the_package(tmp_path: Path) -> None:
    plain = build(tmp_path / "plain", "llama")
    packed = quantised(plain.folder, "block", tmp_path)
    note = explain_decoding(packed, "bfloat16") or ""
    assert "stored in fp8 and were decoded to bfloat16" in note
    assert "pip install kernels" in note
    assert explain_decoding(packed, "fp8") is None
    assert explain_decoding(Checkpoint.open(plain.folder), "bfloat16") is None


def test_hooks_take_a_layer_of_fp8() -> None:
    """FP8Linear of transformers keeps scales beside a weight in eight bits."""
    from transformers.integrations.finegrained_fp8 import FP8Linear

    layer = FP8Linear(32, 48, block_size=(16, 16))
    assert is_packed(layer)
    assert read_live_shapes(torch.nn.ModuleDict({"o_proj": layer})) == {"o_proj.weight": (48, 32)}


@pytest.mark.parametrize(
    ("device", "kernels", "times"), [("cuda", True, 1), ("cuda", False, 2), ("cpu", True, 2)]
)
def test_fp8_takes_16_bits_where_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, kernels: bool, times: int
) -> None:
    monkeypatch.setattr(memory, "has_kernels", lambda: kernels)
    packed = quantised(build(tmp_path / "plain", "llama").folder, "block", tmp_path)
    codes = [entry for entry in packed.tensors.values() if entry.dtype.startswith("F8")]
    stored = sum(entry.end - entry.start for entry in codes)
    others = sum(entry.end - entry.start for entry in packed.tensors.values()) - stored
    assert memory.loaded_bytes(packed, "auto", device) == others + times * stored


def test_quantised_weights_that_fit_no_card_are_said() -> None:
    """The words are those of transformers (quantizer_bnb_4bit.py)."""
    error = ValueError(
        "Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM"
    )
    message = explain_loading("big", None, error)
    assert "big does not fit on the card" in message
    assert "--load-in 4bit, more cards, or --device cpu" in message
