"""A model read block by block runs whole passes, and decodes packed weights as it reads them."""

from pathlib import Path

import pytest
import safetensors.torch
import tiny_chat
import torch
from layerwise_stream import pair, random_batches, stream_of
from quantised_folder import quantised
from tiny_chat import DAY, NIGHT
from zoo import D_MODEL, zoo_folder

from vectomy.architecture.norms import fold_live
from vectomy.checkpoint import read_stored
from vectomy.checkpoint.quantization import decode, locate
from vectomy.core import linalg
from vectomy.core.errors import ModelError
from vectomy.hooks.writer_outputs import change_outputs, is_hookable
from vectomy.metrics import direction_share
from vectomy.models import (
    ChatModel,
    ModelPass,
    limit_memory,
    load_layerwise,
    load_model,
    recompute_blocks,
    run_passes,
)
from vectomy.search.gradient.parameters import ablate_with_strengths

TIER = "chat"

PROMPTS = [*tiny_chat.prompts(NIGHT, 6), *tiny_chat.prompts(DAY, 6)]
EXACT = {"rtol": 1e-6, "atol": 1e-6}

# Packed weights

PACKED = {"llama": "block", "qwen3": "tensor", "qwen3_moe": "block", "gpt_oss:square": "mxfp4"}


@pytest.mark.zoo
@pytest.mark.parametrize("label", PACKED)
def test_packed_weights_are_decoded_block_by_block(label: str, tmp_path: Path) -> None:
    """The stream at every block and the logits are those of a model with the decoded weights."""
    packed = quantised(zoo_folder(label, tmp_path / "m"), PACKED[label], tmp_path)
    chat = load_layerwise(packed.path, device="cpu", dtype="float32", tokenizer=False, passes=True)
    state = safetensors.torch.load_file(tmp_path / "m" / "model.safetensors")
    assert set(state) != set(packed.tensors)
    for name in state:
        weight = locate(packed, name)
        value = decode(weight, {part: read_stored(packed, part) for part in weight.parts})
        state[name] = (value.mT if weight.is_transposed else value).contiguous()
    safetensors.torch.save_file(state, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    resident = load_model(tmp_path / "m", device="cpu", dtype="float32", tokenizer=False)
    batches = [pair(), pair()]
    with torch.inference_mode():
        expected, found = stream_of(resident, batches), stream_of(chat, batches)
        logits = [model.log_probs(model.hidden(batches[0])) for model in (chat, resident)]
    assert found.keys() == expected.keys()
    for point, value in expected.items():
        torch.testing.assert_close(found[point], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.zoo
@pytest.mark.parametrize("label", ["qwen3_moe", "gpt_oss:square", "zamba", "phi3"])
def test_a_receipt_loads_no_checkpoint_whole_that_does_not_fit(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed weights are read block by block; the other cases are an error, which becomes a note:
    weights that blocks share (zamba), and what is refused when it is opened.
    """
    folder = zoo_folder(label, tmp_path / "m")
    folder = quantised(folder, PACKED[label], tmp_path).path if label in PACKED else folder

    def refuse(*args: object, **options: object) -> ChatModel:
        raise ModelError("its weights are packed")

    def load_whole(*args: object, **options: object) -> ChatModel:
        raise AssertionError("loaded whole")

    monkeypatch.setattr(direction_share, "load_model", load_whole)
    if label == "phi3":
        monkeypatch.setattr(direction_share, "load_layerwise", refuse)
    basis = torch.eye(D_MODEL)[:1]
    with limit_memory("1MB"):
        if label in PACKED:
            assert len(direction_share.projections(folder, basis, device="cpu")[0]) > 1
        else:
            said = {"zamba": "blocks share", "phi3": "in float32, and 0 bytes are free"}[label]
            with pytest.raises(ModelError, match=said):
                direction_share.projections(folder, basis, device="cpu")


# Whole passes

PASSING = {
    "llama": {},
    "llama:tied": {"tied": True},
    "gemma2": {},  # norms between writers and stream, capped logits
    "qwen3_moe": {},
    "gpt_oss": {},
    "gpt2": {},
    "jamba": {},  # no plain cache
    "granite": {},  # scaled logits
}


@pytest.mark.parametrize("case", PASSING)
def test_whole_passes_are_those_of_the_whole_model(tiny_of, case: str) -> None:
    """Hidden states, logits, greedy tokens and gradients; the gradients to the bit."""
    folder = tiny_of(case.partition(":")[0], **PASSING[case]).folder
    chat = load_layerwise(folder, device="cpu", tokenizer=False, passes=True)
    assert chat.stream is not None
    resident = load_model(folder, device="cpu", tokenizer=False)
    batch = random_batches(chat)[0]
    with torch.inference_mode():
        hidden = chat.hidden(batch)
        torch.testing.assert_close(hidden, resident.hidden(batch), **EXACT)
        torch.testing.assert_close(chat.log_probs(hidden), resident.log_probs(hidden), **EXACT)
    writers = [writer for writer in resident.architecture.writers if is_hookable(writer)]
    gradients = []
    for model in (chat, resident):
        basis = linalg.normalise(torch.linspace(-1, 1, model.architecture.d_model))[None].requires_grad_()
        changes = [
            (writer, ablate_with_strengths(fold_live(model.model, writer, basis), torch.tensor([0.7])))
            for writer in writers
        ]
        with torch.enable_grad(), change_outputs(model.model, changes), recompute_blocks(model):
            (states,) = run_passes(model, [ModelPass(batch, lambda states: states[:, -1])])
            model.log_probs(states)[:, 3].mean().backward()
        assert float(basis.grad.abs().max()) > 0
        gradients.append(basis.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("most", [1, 9])
def test_answers_are_those_of_the_whole_model(most: int) -> None:
    chat = load_layerwise(tiny_chat.folder(), device="cpu", passes=True)
    assert chat.stream is not None
    chat.stream.pages.most = most
    tokens = chat.tokens(PROMPTS)
    resident = load_model(tiny_chat.folder(), device="cpu")
    assert chat.end_tokens == resident.end_tokens
    assert chat.answer(tokens, 8, 100) == resident.answer(tokens, 8, 100)
    torch.testing.assert_close(
        chat.next_token_log_probs(tokens, 100), resident.next_token_log_probs(tokens, 100), **EXACT
    )
    # The stream is still there, and what was read in a pass without gradients may be used in one.
    assert len(stream_of(chat, list(chat.batches(tokens, 40)))) > 0
    with torch.enable_grad(), recompute_blocks(chat):
        hidden = chat.hidden(next(chat.batches(tokens, 40)))
    assert chat.stream.pages.reads <= chat.architecture.n_layers or most == 1
    assert not hidden.requires_grad
