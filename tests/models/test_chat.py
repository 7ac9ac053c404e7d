"""Rendering, batching and answering equal what transformers does for one prompt at a time; what
does not load is named.
"""

import json
import shutil
from pathlib import Path

import pytest
import tiny_chat
import torch
from tiny import VOCAB, build
from tiny_chat import ALWAYS_THINKING, DAY, NIGHT, NO_SYSTEM, TEMPLATE, THINKING

from vectomy.core.errors import (
    ArchitectureError,
    CheckpointError,
    ModelError,
    UnsafeCheckpointError,
    VectomyError,
)
from vectomy.data.prompts import Prompt
from vectomy.models import ChatModel, fetch, load_model

TIER = "chat"

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
BRIEF = Prompt("show the owl", "be brief")
# Lengths from 6 to 20 tokens.
MIXED = [
    Prompt(" ".join(["show", *["the"] * n, "owl"]), "be brief" if n % 3 == 0 else None)
    for n in (9, 0, 4, 1, 12, 2)
]
MIXED += [*tiny_chat.prompts(NIGHT, 3), *tiny_chat.prompts(DAY, 3)]


# Templates


@pytest.mark.parametrize("template", [TEMPLATE, NO_SYSTEM], ids=["system", "no-system"])
def test_without_a_system_prompt_the_template_alone_speaks(template: str) -> None:
    rendered = tiny_chat.chat(template=template).render(Prompt("show the owl"))
    assert rendered == "<bos><|user|> show the owl <|end|><|assistant|>"


def test_a_system_prompt_has_its_own_turn_where_there_is_one() -> None:
    assert tiny_chat.chat().render(BRIEF) == (
        "<bos><|system|> be brief <|end|><|user|> show the owl <|end|><|assistant|>"
    )


def test_a_template_that_refuses_the_system_role_gets_it_in_the_users_turn() -> None:
    rendered = tiny_chat.chat(template=NO_SYSTEM).render(BRIEF)
    assert rendered == "<bos><|user|> be brief\n\nshow the owl <|end|><|assistant|>"


@pytest.mark.parametrize("thinking", [False, True])
def test_a_thinking_block_is_left_out_unless_asked_for(thinking: bool) -> None:
    chat = load_model(tiny_chat.folder(template=THINKING), device="cpu", thinking=thinking)
    assert chat.render(Prompt("show")).endswith("<|assistant|>" + ("" if thinking else "<think> </think>"))


@pytest.mark.parametrize("thinking", [False, True])
def test_a_template_that_always_thinks_gets_its_block_closed(thinking: bool) -> None:
    chat = load_model(tiny_chat.folder(template=ALWAYS_THINKING), device="cpu", thinking=thinking)
    ending = "<think>\n" if thinking else "<think>\n\n</think>\n\n"
    assert chat.render(Prompt("show")) == f"<bos><|user|> show <|end|><|assistant|>{ending}"


@pytest.mark.parametrize("add_bos", [False, True])
def test_there_is_one_bos_whatever_the_tokenizer_adds(add_bos: bool) -> None:
    chat = tiny_chat.chat(add_bos=add_bos)
    ids = chat.tokens([BRIEF])[0]
    assert ids.count(1) == 1
    assert ids[0] == 1
    if add_bos:
        assert chat.tokenizer(chat.render(BRIEF))["input_ids"].count(1) == 2


ENDINGS = {
    TEMPLATE: ["<|end|>", "<|assistant|>"],
    NO_SYSTEM: ["<|end|>", "<|assistant|>"],
    THINKING: ["<|end|>", "<|assistant|>", "<think>", "</think>"],
    ALWAYS_THINKING: ["<|end|>", "<|assistant|>", "<think>", "</think>"],
}


@pytest.mark.parametrize("template", ENDINGS, ids=["plain", "no-system", "thinking", "always"])
def test_the_tokens_behind_the_instruction_are_found_from_the_template(template: str) -> None:
    chat = tiny_chat.chat(template=template)
    assert [tiny_chat.VOCABULARY[token] for token in chat.post_instruction()] == ENDINGS[template]
    assert chat.tokens([BRIEF])[0][-len(ENDINGS[template]) :] == chat.post_instruction()


def test_a_template_with_nothing_behind_the_instruction_is_refused() -> None:
    bare = "{{ messages[-1]['content'] }}"
    with pytest.raises(ModelError, match="the chat template of tiny puts no token after the instruction"):
        tiny_chat.chat(template=bare).post_instruction()


# Batches


@pytest.mark.parametrize("budget", [1, 25, 60, 4096])
def test_batches_hold_every_prompt_once_within_the_budget(budget: int) -> None:
    chat = tiny_chat.chat()
    tokens = chat.tokens(MIXED)
    batches = list(chat.batches(tokens, budget))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(MIXED)))
    widths = [batch.input_ids.shape[1] for batch in batches]
    assert widths == sorted(widths, reverse=True)
    for batch in batches:
        assert batch.input_ids.numel() <= budget or len(batch.rows) == 1
        for row, ids, mask in zip(batch.rows, batch.input_ids, batch.attention_mask, strict=True):
            assert ids[mask.bool()].tolist() == tokens[row]
            assert mask.tolist() == sorted(mask.tolist())


@pytest.mark.parametrize("budget", [1, 60, 4096])
def test_padded_log_probs_are_those_of_single_prompts(budget: int) -> None:
    chat = tiny_chat.chat()
    tokens = chat.tokens(MIXED)
    expected = torch.cat([tiny_chat.raw(chat, ids).logits[:, -1].log_softmax(-1) for ids in tokens])
    torch.testing.assert_close(chat.next_token_log_probs(tokens, budget), expected, **CLOSE)


def test_hidden_and_log_probs_are_the_models_own_logits_at_every_token() -> None:
    chat = tiny_chat.chat(taught_=False)
    tokens = chat.tokens(MIXED)
    for batch in chat.batches(tokens, 4096):
        found = chat.log_probs(chat.hidden(batch))
        for row, values in zip(batch.rows, found, strict=True):
            expected = tiny_chat.raw(chat, tokens[row]).logits[0].log_softmax(-1)
            torch.testing.assert_close(values[-len(tokens[row]) :], expected, **CLOSE)


def test_no_prompts_are_no_tokens() -> None:
    chat = tiny_chat.chat()
    assert chat.tokens([]) == []
    assert list(chat.batches([], 10)) == []
    assert chat.answer([], 3, 10) == []


# Answers


def one_by_one(chat: ChatModel, ids: list[int], count: int) -> list[int]:
    """Greedy decoding by hand, without cache, padding or `generate`; up to and with the end-of-turn
    token.
    """
    answer: list[int] = []
    while len(answer) < count and 2 not in answer:
        answer.append(int(tiny_chat.raw(chat, [*ids, *answer]).logits[0, -1].argmax()))
    return answer


@pytest.mark.parametrize("budget", [1, 100, 4096])
@pytest.mark.parametrize("taught", [True, False], ids=["taught", "random"])
def test_answers_are_greedy_and_stop_at_the_end_of_turn(taught: bool, budget: int) -> None:
    chat = tiny_chat.chat(taught_=taught)
    tokens = chat.tokens(MIXED)
    answers = chat.answer(tokens, 12, budget)
    assert answers == [one_by_one(chat, ids, 12) for ids in tokens]
    if taught:
        assert {answer[-1] for answer in answers[-6:]} == {2}
        assert len({len(answer) for answer in answers}) > 1


def test_answers_are_what_transformers_generates() -> None:
    chat = tiny_chat.chat()
    for ids, answer in zip(chat.tokens(MIXED), chat.answer(chat.tokens(MIXED), 12, 4096), strict=True):
        inputs = torch.tensor([ids])
        out = chat.model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=12, do_sample=False
        )
        assert out[0, len(ids) :].tolist() == answer


def test_the_text_of_an_answer_holds_no_special_tokens() -> None:
    chat = tiny_chat.chat()
    prompts = tiny_chat.prompts(NIGHT, 2) + tiny_chat.prompts(DAY, 2)
    texts = [chat.text(answer) for answer in chat.answer(chat.tokens(prompts), 12, 4096)]
    assert texts == [tiny_chat.answer_of(prompt.text) for prompt in prompts]


def test_several_end_tokens_all_end_an_answer(tmp_path: Path) -> None:
    """generation_config.json lists "that" as an end of turn too."""
    folder = Path(shutil.copytree(tiny_chat.folder(), tmp_path / "m"))
    that = tiny_chat.VOCABULARY.index("that")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [2, that]}))
    chat = load_model(folder, device="cpu")
    answers = chat.answer(chat.tokens(tiny_chat.prompts(NIGHT, 2) + tiny_chat.prompts(DAY, 1)), 12, 4096)
    assert [answer[-1] for answer in answers] == [that, that, 2]


# Loading


def test_the_model_is_loaded_for_inference_alone_in_the_dtype_that_is_asked() -> None:
    chat = load_model(tiny_chat.folder(), device="cpu", dtype="bfloat16")
    assert {value.dtype for value in chat.model.parameters()} == {torch.bfloat16}
    assert not any(value.requires_grad for value in chat.model.parameters())
    assert not chat.model.training
    assert load_model(tiny_chat.folder(), device="cpu").model.dtype == torch.float32


def broken(tmp_path: Path, case: str) -> Path:
    folder = Path(shutil.copytree(tiny_chat.folder(), tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    if case == "template":
        (folder / "chat_template.jinja").unlink()
    elif case == "architecture":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "made_up"}))
    elif case == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif case == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    elif case == "missing":
        shutil.rmtree(folder)
    return folder


FAILS = {
    "template": (ModelError, "has no chat template"),
    "architecture": (ArchitectureError, "made_up"),
    "pickle": (UnsafeCheckpointError, "pytorch_model.bin"),
    "tokenizer": (ModelError, "tokenizer.json does not parse as JSON .*download it again"),
    "missing": (CheckpointError, "m "),
}


@pytest.mark.parametrize("case", FAILS)
def test_what_does_not_load_is_named(tmp_path: Path, case: str) -> None:
    kind, said = FAILS[case]
    folder = broken(tmp_path, case)
    with pytest.raises(kind, match=said) as caught:
        load_model(folder, device="cpu")
    assert isinstance(caught.value, VectomyError)
    assert str(folder) in str(caught.value) or case == "architecture"


@pytest.mark.parametrize("device", ["tpu", "cuda:99" if not torch.cuda.is_available() else "npu", ""])
def test_a_device_that_is_not_here_is_named_with_those_that_are(device: str) -> None:
    with pytest.raises(ModelError, match=rf"this machine has no device '{device}'; usable: auto, cpu"):
        load_model(tiny_chat.folder(), device=device)


@pytest.mark.tiny
def test_a_base_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny = build(tmp_path / "m", "llama")
    assert VOCAB
    with pytest.raises(ModelError, match="transformers cannot load"):
        load_model(tiny.folder, device="cpu")


@pytest.mark.unit
def test_a_folder_is_never_looked_up_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("went to the Hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert fetch("owner/name") == Path("owner/name")
    for model in ("./owner/none", "/owner/none", "~/none", "none", "a/b/c"):
        assert fetch(model) == Path(model).expanduser()


@pytest.mark.unit
def test_a_model_that_the_hub_does_not_give_is_named() -> None:
    """Offline, as the whole suite is."""
    with pytest.raises(
        CheckpointError, match="'owner/name-of-none' is not a local folder, and the Hub does not serve it"
    ):
        fetch("owner/name-of-none")


def test_a_template_that_takes_no_prompt_is_a_model_error() -> None:
    chat = tiny_chat.chat(template="{{ raise_exception('no turns here') }}")
    with pytest.raises(ModelError, match=r"chat template of .* does not take a prompt .*no turns here"):
        chat.tokens([Prompt("a")])


def test_a_template_that_drops_the_system_prompt_in_silence_does_not_lose_it() -> None:
    """Two system prompts over one set would otherwise be one and the same set of tokens."""
    silent = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    chat = tiny_chat.chat(template=silent)
    assert BRIEF.system is not None
    assert BRIEF.system in chat.render(BRIEF)
    assert chat.render(BRIEF) == tiny_chat.chat(template=NO_SYSTEM).render(BRIEF)
