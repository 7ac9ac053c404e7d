"""Weights quantised by bitsandbytes while the model runs (--load-in)."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from quantised_folder import quantised
from tiny import build, unit

from vectomy.architecture import architecture_of
from vectomy.architecture.live_weights import is_packed
from vectomy.core.config import Runtime
from vectomy.core.errors import ConfigError, ModelError, PreflightError
from vectomy.core.run_config import make_config
from vectomy.edits.edit import Edit
from vectomy.models import ChatModel, count_weight_bytes, load_model
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
def test_weights_that_are_quantised_already_are_not_quantised_again(tmp_path: Path) -> None:
    packed = quantised(build(tmp_path / "plain", "llama").folder, "block", tmp_path)
    with pytest.raises(ModelError, match=r"quantised already \(fp8\), and --load-in 8bit"):
        load("8bit", packed.path, tokenizer=False)


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


def test_hashes_of_results_in_full_precision_are_those_of_before() -> None:
    assert Runtime().list_precision() == ["auto", "auto", False]
    assert Runtime(load_in="4bit").list_precision() == ["auto", "auto", False, "4bit"]
