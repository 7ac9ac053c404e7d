"""A wrapped model gives what the loaded folder gives, stays as it is, and knows its weights."""

import copy
from pathlib import Path

import pytest
import tiny_chat
import torch
from tiny import hooked, unit

import vectomy
from vectomy.checkpoint import Checkpoint, fingerprint
from vectomy.core.errors import CheckpointError, ModelError, PromptError, UsageError

TIER = "chat"

TEXTS = ["show the owl red", "paint the moon blue", "find the sun green"]


def loaded(dtype: torch.dtype = torch.float32):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_chat.folder()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def changed():
    """A model whose weights are those of no folder."""
    model, tokenizer = loaded()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[-1, 0] += 1
    return model, tokenizer


def test_a_wrapped_model_does_all_that_the_loaded_folder_does() -> None:
    wrapped, chat = vectomy.wrap(*loaded()), tiny_chat.chat()
    ours, theirs = (vectomy.collect(model, TEXTS, samples=True) for model in (wrapped, chat))
    assert torch.equal(ours.samples, theirs.samples)
    assert wrapped.tokens(TEXTS) == chat.tokens([vectomy.Prompt(text) for text in TEXTS])
    answers = [model.answer(model.tokens(TEXTS), 6, "auto") for model in (wrapped, chat)]
    assert answers[0] == answers[1]
    edits = [vectomy.Edit.ablation(base, unit()) for base in (wrapped, chat, tiny_chat.folder())]
    assert len({edit.sha256 for edit in edits}) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_and_its_tokenizer_stay_as_they_are(dtype: torch.dtype) -> None:
    model, tokenizer = loaded(dtype)
    tokenizer.chat_template += "{{ strftime_now('%d') }}"
    template = tokenizer.chat_template
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = copy.deepcopy(model.generation_config.to_dict())
    chat = vectomy.wrap(model, tokenizer)
    edit = vectomy.Edit.ablation(chat, unit())
    with edit.hooks(chat), vectomy.capture(chat, ["resid_pre"]):
        vectomy.collect(chat, TEXTS)
        chat.answer(chat.tokens(TEXTS), 4, "auto")
    assert chat.model is model
    assert not hooked(model)
    assert tokenizer.chat_template == template
    assert model.generation_config.to_dict() == settings
    assert {value.dtype for value in model.state_dict().values()} == {dtype}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    # Where it was loaded from holds its weights, whatever dtype they have in memory.
    assert chat.checkpoint.path == tiny_chat.folder()


def test_weights_in_memory_alone_are_those_of_the_folder_that_would_be_saved(tmp_path: Path) -> None:
    model, tokenizer = changed()
    chat = vectomy.wrap(model, tokenizer)
    edit = vectomy.Edit.ablation(chat, unit())
    assert edit.base.fingerprint != fingerprint(Checkpoint.open(tiny_chat.folder()))
    with pytest.raises(CheckpointError, match=r"model\.save_pretrained\(DIR\)"):
        vectomy.bake(edit, chat, tmp_path / "baked")
    model.save_pretrained(tmp_path / "saved")
    assert vectomy.bake(edit, tmp_path / "saved", tmp_path / "baked").edited
    again = vectomy.wrap(model, tokenizer, folder=tmp_path / "saved")
    assert vectomy.bake(edit, again, tmp_path / "again").edited
    with pytest.raises(ModelError, match=r"'model.layers.1.mlp.down_proj.weight' of the model differs"):
        vectomy.wrap(model, tokenizer, folder=tiny_chat.folder())


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.2.self_attn.v_proj.weight"])
def test_no_row_of_the_weights_is_left_out_when_the_folder_is_compared(name: str, tmp_path: Path) -> None:
    """So that a bake from the folder loses no change of the model."""
    model, tokenizer = loaded()
    with torch.no_grad():
        model.get_parameter(name)[3, 1] += 1
    chat = vectomy.wrap(model, tokenizer)
    assert not chat.checkpoint.tensors
    with pytest.raises(CheckpointError, match=r"model\.save_pretrained\(DIR\)"):
        vectomy.bake(vectomy.Edit.ablation(chat, unit()), chat, tmp_path / "baked")
    with pytest.raises(ModelError, match=f"'{name}' of the model differs"):
        vectomy.wrap(model, tokenizer, folder=tiny_chat.folder())


@pytest.mark.zoo
@pytest.mark.parametrize("label", ["llama", "gemma2", "gpt2", "qwen3_moe", "mixtral"])
def test_the_fingerprint_in_memory_is_that_of_the_saved_folder(tmp_path: Path, label: str) -> None:
    from zoo import zoo_model

    model = zoo_model(label)
    chat = vectomy.wrap(model)
    assert not chat.checkpoint.tensors
    model.save_pretrained(tmp_path)
    assert chat.fingerprint == fingerprint(Checkpoint.open(tmp_path))
    edit = vectomy.Edit.ablation(chat, torch.ones(chat.architecture.d_model))
    assert edit.sha256 == vectomy.Edit.ablation(tmp_path, torch.ones(chat.architecture.d_model)).sha256


def test_hooks_take_the_chat_model_or_the_model_in_it() -> None:
    chat, ids = tiny_chat.chat(), torch.tensor(tiny_chat.chat().tokens(TEXTS[:1]))
    edit, found = vectomy.Edit.ablation(chat, unit()), []
    for model in (chat, chat.model):
        with edit.hooks(model), torch.no_grad():
            found.append(chat.model(ids).logits)
        with edit.in_weights(model), torch.no_grad():
            torch.testing.assert_close(chat.model(ids).logits, found[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(*found)
    with torch.no_grad():
        assert not torch.allclose(found[0], chat.model(ids).logits, atol=0.1)


@pytest.mark.parametrize("way", ["hooks", "capture"])
def test_a_peft_model_is_taken_with_its_adapters(way: str) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = loaded()
    ids = torch.tensor(tiny_chat.chat().tokens(TEXTS[:1]))
    adapted = get_peft_model(model, LoraConfig(target_modules=["o_proj"], init_lora_weights=False)).eval()
    chat = vectomy.wrap(adapted, tokenizer)
    with torch.no_grad():
        whole = adapted(ids).logits
        assert torch.equal(chat.model(ids).logits, whole)
        if way == "capture":
            with vectomy.capture(adapted, ["resid_post"], layers=[3]) as stream:
                adapted(ids)
            torch.testing.assert_close(model.lm_head(model.model.norm(stream["resid_post", 3])), whole)
        else:
            with vectomy.Edit.ablation(tiny_chat.folder(), unit()).hooks(chat):
                assert not torch.allclose(adapted(ids).logits, whole, atol=0.1)


def test_conversations_are_prompts_too() -> None:
    chat = tiny_chat.chat()
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "show the owl red"},
    ]
    assert chat.tokens([turns]) == chat.tokens([vectomy.Prompt("show the owl red", system="be brief")])
    assert chat.tokens("show the owl red") == chat.tokens(["show the owl red"])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model, words: vectomy.wrap(3), UsageError, "an int .* is no language model"),
        (lambda model, words: vectomy.wrap(torch.nn.Linear(2, 2)), UsageError, "a Linear is no language"),
        (lambda model, words: vectomy.wrap(model, 3), UsageError, "an int .* is no tokenizer"),
        (lambda model, words: vectomy.wrap(model.train(), words), ModelError, r"model\.eval\(\)"),
        (lambda model, words: vectomy.collect(vectomy.wrap(model), ["x"]), ModelError, "has no tokenizer"),
        (lambda model, words: vectomy.collect(vectomy.wrap(model, words), [3]), PromptError, "prompt 1 is 3"),
        (lambda model, words: vectomy.collect(vectomy.wrap(model, words), 3), PromptError, "not a int"),
        (lambda model, words: vectomy.Edit.ablation(model, unit()), UsageError, r"vectomy\.wrap"),
    ],
)
def test_what_cannot_be_wrapped_is_said_in_one_sentence(call, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(*loaded())
