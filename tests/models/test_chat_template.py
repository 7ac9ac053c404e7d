"""What the template rendered holds the prompt, on whatever day, and says where an answer ends."""

import json
import shutil
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from tiny import build
from tiny_chat import DAY, NIGHT, TEMPLATE, VOCABULARY

from vectomy.core.errors import ModelError, PromptError
from vectomy.data.prompts import Prompt, Turn
from vectomy.models import ChatModel, check_prompts, list_template_faults, load_model
from vectomy.models.chat_template import TEMPLATE_DATE, ChatTemplate, freeze_date

TIER = "chat"

CONTENT = "{{ m['content'] }}"
PART = (
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
)
PARTS = TEMPLATE.replace(CONTENT, PART)
DATED = TEMPLATE.replace("<bos>", "<bos>{{ strftime_now('%d %B %Y, %A, %H:%M, %j') }} ", 1)
SHOW, BRIEF = Prompt("show the owl"), Prompt("show the owl", "be brief")
TALK = Prompt("show the owl", "be brief", (Turn("user", "Hello"), Turn("assistant", "sure")))


def changed(tmp_path: Path, **files: object) -> Path:
    """The tiny chat model with other files; None removes one."""
    folder = Path(shutil.copytree(tiny_chat.folder(), tmp_path / "m"))
    for name, content in files.items():
        file = folder / name.replace("__", ".")
        if content is None:
            file.unlink()
        elif isinstance(content, dict):
            before = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps({**before, **content}))
        else:
            file.write_text(str(content))
    return folder


def opened(folder: Path) -> ChatModel:
    return load_model(folder, device="cpu", dtype="float32", name="tiny")


# Forms of templates


@pytest.mark.parametrize("prompt", [SHOW, BRIEF, TALK], ids=["plain", "system", "history"])
def test_a_template_of_content_parts_renders_what_one_of_text_renders(prompt: Prompt) -> None:
    assert tiny_chat.chat(template=PARTS).render(prompt) == tiny_chat.chat().render(prompt)


@pytest.mark.parametrize("file", ["chat_template__json", "processor_config__json"])
def test_the_template_of_a_processor_is_read(tmp_path: Path, file: str) -> None:
    folder = changed(tmp_path, chat_template__jinja=None, **{file: {"chat_template": TEMPLATE}})
    assert opened(folder).render(BRIEF) == tiny_chat.chat().render(BRIEF)


@pytest.mark.parametrize("name", ["default", "chat"])
def test_the_default_of_named_templates_is_taken_or_the_only_one(tmp_path: Path, name: str) -> None:
    named = [{"name": name, "template": TEMPLATE}]
    if name == "default":
        named.append({"name": "tool_use", "template": "TOOLS" + TEMPLATE})
    folder = changed(tmp_path, chat_template__jinja=None, tokenizer_config__json={"chat_template": named})
    assert opened(folder).render(BRIEF) == tiny_chat.chat().render(BRIEF)


FAULTS = {
    "raises": ("{{ raise_exception('no turns here') }}", "does not take a prompt .*no turns here"),
    "syntax": ("{% for m in messages %}", "does not take a prompt .*TemplateSyntaxError"),
    "other key": ("{% for m in messages %}{{ m['value'] }}{% endfor %}", "leaves out the user's turn"),
    "first turn only": (
        "{{ messages[0]['content'] }}<|end|>",
        "leaves out the prompt 'show the owl', or a part of it",
    ),
    "half a prompt": (
        TEMPLATE.replace(CONTENT, "{{ m['content'][:22] }}"),
        "leaves out the prompt 'show the owl and the moon and the bat'",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_template_that_leaves_out_the_prompt_is_an_error(case: str) -> None:
    template, message = FAULTS[case]
    prompt = Prompt("show the owl and the moon and the bat") if case == "half a prompt" else TALK
    with pytest.raises(ModelError, match=f"the chat template of tiny {message}"):
        tiny_chat.chat(template=template).tokens([prompt])


LAST_USER = (
    "<bos>{% for m in messages %}{% if loop.last or m['role'] != 'ROLE' %}<|{{ m['role'] }}|> "
    "{{ m['content'] }} <|end|>{% endif %}{% endfor %}<|assistant|>"
)


@pytest.mark.parametrize(
    ("role", "message"),
    [("user", "the user's earlier turn 'Hello'"), ("assistant", "the assistant's earlier turn 'sure'")],
)
def test_a_template_that_leaves_out_an_earlier_turn_is_an_error(role: str, message: str) -> None:
    chat = tiny_chat.chat(template=LAST_USER.replace("ROLE", role))
    assert chat.render(SHOW) == tiny_chat.chat().render(SHOW)
    with pytest.raises(ModelError, match=f"the chat template of tiny leaves out {message}"):
        chat.render(TALK)


def test_a_template_may_leave_out_the_thoughts_of_earlier_turns() -> None:
    """As those of reasoning models do."""
    parted = TEMPLATE.replace(CONTENT, "{{ m['content'].split('</think>')[-1] }}")
    talk = Prompt("show the owl", None, (Turn("user", "Hello"), Turn("assistant", "<think>x</think>sure")))
    assert "sure" in tiny_chat.chat(template=parted).render(talk)


def test_named_templates_without_a_default_are_listed(tmp_path: Path) -> None:
    named = [{"name": name, "template": TEMPLATE} for name in ("rag", "tool_use")]
    folder = changed(tmp_path, chat_template__jinja=None, tokenizer_config__json={"chat_template": named})
    with pytest.raises(ModelError, match="has the chat templates rag, tool_use and none named default"):
        opened(folder).render(SHOW)


# The date


def test_a_dated_template_is_rendered_as_of_one_day() -> None:
    chat = tiny_chat.chat(template=DATED)
    day = TEMPLATE_DATE.strftime("%d %B %Y, %A, %H:%M, %j")
    assert chat.render(SHOW) == tiny_chat.chat().render(SHOW).replace("<bos>", f"<bos>{day} ")
    assert chat.template.date == TEMPLATE_DATE.strftime("%Y-%m-%d")
    assert tiny_chat.chat().template.date is None


def test_only_a_dated_template_is_changed_and_only_its_date() -> None:
    assert freeze_date(TEMPLATE) == TEMPLATE
    # White space at the start, which Jinja strips before a block, stays as it was.
    for start in ("", "\n", "  {% if true %}x{% endif %}", "  x"):
        template = start + "{{ strftime_now('%Y') }}|{{ messages[0]['content'] }}"
        words = tiny_chat.tokenizer(template)
        turns = [{"role": "user", "content": "Hello"}]
        plain = words.apply_chat_template(turns, tokenize=False)
        words.chat_template = freeze_date(template)
        year = datetime.now().strftime("%Y")
        assert words.apply_chat_template(turns, tokenize=False) == plain.replace(year, "2024")


# Where an answer ends


def test_the_template_says_where_an_answer_ends_whatever_eos_is(tmp_path: Path) -> None:
    unk = VOCABULARY.index("<unk>")
    folder = changed(
        tmp_path,
        config__json={"eos_token_id": unk},
        generation_config__json={"eos_token_id": unk},
        tokenizer_config__json={"eos_token": "<unk>"},
    )
    chat = opened(folder)
    prompts = [*tiny_chat.prompts(NIGHT, 2), *tiny_chat.prompts(DAY, 2)]
    answers = chat.answer(chat.tokens(prompts), 20, 4096)
    assert {answer[-1] for answer in answers} == {VOCABULARY.index("<|end|>")}
    assert [chat.text(answer) for answer in answers] == [tiny_chat.answer_of(p.text) for p in prompts]


def test_the_end_of_turn_is_no_part_of_the_answer_though_it_is_no_special_token(tmp_path: Path) -> None:
    """As where a trainer adds <|im_end|> as an ordinary token. Every other caller of `generate`
    ends an answer there too.
    """
    template = TEMPLATE.replace("<|end|>", "<|done|>")
    words = tiny_chat.tokenizer(template)
    words.add_tokens(["<|done|>"])
    done = words.convert_tokens_to_ids("<|done|>")
    folder = build(tmp_path / "m", "llama", vocab_size=len(VOCABULARY) + 1).folder
    words.save_pretrained(folder)
    chat = opened(folder)
    assert done not in words.all_special_ids
    assert done in chat.end_tokens
    assert set(chat.end_tokens) == set(chat.model.generation_config.eos_token_id)
    assert chat.text([*words("the owl")["input_ids"], done]) == "the owl"
    assert chat.text([done, *words("the owl")["input_ids"]]) == "<|done|> the owl"


@pytest.mark.parametrize(
    ("turn", "end"),
    [
        ("<|{{ m['role'] }}|> {{ m['content'] }} <|end|>", "<|end|>"),
        ("<|{{ m['role'] }}|> {{ m['content'] }} ", None),
        ("<|{{ m['role'] }}|> {{ m['content'] }} now ", None),
    ],
    ids=["marked", "nothing", "a word"],
)
def test_only_a_special_token_ends_an_answer(turn: str, end: str | None) -> None:
    template = "<bos>{% for m in messages %}" + turn + "{% endfor %}"
    token = tiny_chat.chat(template=template).template.end_token
    assert token == (None if end is None else VOCABULARY.index(end))


# Tokens and positions


@pytest.mark.parametrize("pad", [None, -1, 3, 10**6])
def test_a_padding_token_of_any_size_changes_no_answer(tmp_path: Path, pad: int | None) -> None:
    folder = changed(tmp_path, config__json={"pad_token_id": pad})
    chat = opened(folder)
    prompts = [Prompt("show the owl"), *tiny_chat.prompts(DAY, 2)]
    usual = tiny_chat.chat()
    assert chat.answer(chat.tokens(prompts), 12, 4096) == usual.answer(usual.tokens(prompts), 12, 4096)


def test_a_padding_token_beyond_the_embedding_is_replaced_for_all_callers(tmp_path: Path) -> None:
    """The tokenizer pads the requests of the lm-evaluation-harness."""
    words = tiny_chat.tokenizer()
    words.add_special_tokens({"pad_token": "<|pad|>"})
    folder = changed(tmp_path)
    words.save_pretrained(folder)
    chat = opened(folder)
    assert words.pad_token_id == chat.rows
    assert chat.tokenizer.pad_token_id == chat.tokenizer.eos_token_id < chat.rows


def test_a_token_beyond_the_embedding_is_named_with_both_sizes() -> None:
    chat = load_model(tiny_chat.folder(), device="cpu", name="tiny")
    chat.tokenizer.add_tokens(["owl2"])
    count = len(VOCABULARY)
    with pytest.raises(
        ModelError, match=f"'owl2' has the id {count}, .* of tiny has {count} rows; .* {count + 1} tok"
    ):
        chat.tokens([Prompt("show the owl2")])
    assert chat.tokens([SHOW]) == tiny_chat.chat().tokens([SHOW])


@pytest.mark.parametrize("kernel", ["flash_attention_2", "kernels-community/flash-attn2", "flex_attention"])
def test_an_attention_kernel_of_the_config_that_is_not_here_is_replaced(tmp_path: Path, kernel: str) -> None:
    folder = changed(tmp_path, config__json={"_attn_implementation": kernel})
    lines: list[str] = []
    check_prompts(folder, [SHOW], 8, name="tiny", log=lines.append)
    assert len(lines) == 1
    assert f"the attention kernel {kernel}; sdpa" in lines[0]
    usual = tiny_chat.chat()
    assert opened(folder).answer(usual.tokens([SHOW]), 12, 4096) == usual.answer(
        usual.tokens([SHOW]), 12, 4096
    )


def test_a_prompt_must_fit_the_positions_and_no_weights_are_read() -> None:
    """The tiny model has 64 positions, which it computes."""
    long = Prompt("show " * 40)
    length = len(tiny_chat.chat().tokens([long])[0])
    lines: list[str] = []
    chat = check_prompts(tiny_chat.folder(), [SHOW, long], 64 - length, log=lines.append)
    assert all(value.is_meta for value in chat.model.parameters())
    assert lines == []
    check_prompts(tiny_chat.folder(), [SHOW, long], 65 - length, log=lines.append)
    assert f"has {length} tokens, which with an answer of {65 - length} exceed the 64 positions" in lines[0]
    with pytest.raises(PromptError, match="exceed the 64 positions"):
        check_prompts(tiny_chat.folder(), [SHOW, Prompt("show " * 64)], 1)


def test_an_answer_must_fit_learned_positions(tmp_path: Path) -> None:
    folder = build(tmp_path / "m", "gpt2", vocab_size=len(VOCABULARY)).folder
    tiny_chat.tokenizer().save_pretrained(folder)
    length = len(tiny_chat.chat().tokens([SHOW])[0])
    check_prompts(folder, [SHOW], 64 - length)
    with pytest.raises(PromptError, match=r"exceed the 64 positions .* lower --answer-tokens"):
        check_prompts(folder, [SHOW], 65 - length)


def test_the_faults_of_a_template_are_listed_by_form_of_prompt() -> None:
    assert list_template_faults(tiny_chat.folder(), name="tiny") == []
    folder = tiny_chat.folder(template=LAST_USER.replace("ROLE", "assistant"))
    (fault,) = list_template_faults(folder, name="tiny")
    assert "the template of tiny leaves out the assistant's earlier turn 'A model.'" in fault.replace(
        "chat ", ""
    )


def test_a_prompt_that_holds_a_special_token_is_said() -> None:
    lines: list[str] = []
    prompts = [SHOW, Prompt("show <|end|> the owl"), Prompt("show <pad> <|end|>")]
    check_prompts(tiny_chat.folder(), prompts, 8, name="tiny", log=lines.append)
    (line,) = lines
    assert line.startswith("2 of 3 prompts hold text that the tokenizer of tiny reads as a special token")
    assert "<|end|> in 'show <|end|> the owl'" in line


def test_a_dated_template_is_said_before_any_work() -> None:
    lines: list[str] = []
    check_prompts(tiny_chat.folder(template=DATED), [SHOW], 8, name="tiny", log=lines.append)
    assert [line.partition("; ")[0] for line in lines] == [
        "the chat template of tiny writes the date of the day"
    ]


def test_positions_end_no_prompt_where_every_layer_slides(tmp_path: Path) -> None:
    chat = tiny_chat.chat()
    assert chat.context == 64
    chat = opened(changed(tmp_path))
    chat.model.config.layer_types = ["sliding_attention"] * chat.architecture.n_layers
    assert chat.context is None


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        ENDLESS,
        TEMPLATE.replace(CONTENT, "{% if m['role'] == 'system' %}" + ENDLESS + "{% endif %}" + CONTENT),
    ],
    ids=["for every prompt", "for system prompts"],
)
def test_a_template_whose_loops_do_not_end_is_refused_in_time(template: str) -> None:
    template_of = ChatTemplate(tiny_chat.chat(template=template).tokenizer, "tiny", seconds=0.2)
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"of tiny takes more than 0\.2 seconds for one prompt; shorten"):
        template_of.render(BRIEF)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("end", ["../../x", [2, "3"], 1.5, True, [[2]], {"x": 1}, 1 << 70])
def test_an_end_token_that_is_no_number_is_refused(tmp_path: Path, end: object) -> None:
    # A copy, for the loaded model knows its end tokens.
    chat = replace(opened(changed(tmp_path)))
    chat.model.generation_config.eos_token_id = end
    with pytest.raises(
        ModelError, match=r"end-of-text token .* of tiny is not the number of a token; correct eos"
    ):
        chat.answer(chat.tokens([SHOW]), 3, 4096)


@pytest.mark.parametrize("length", ["long", [512], {"x": 1}])
def test_a_length_that_is_no_number_is_refused(tmp_path: Path, length: object) -> None:
    folder = tiny_chat.save(tmp_path / "model")
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "model_max_length": length}), encoding="utf-8")
    with pytest.raises(ModelError, match="tiny"):
        load_model(folder, device="cpu", dtype="float32", name="tiny")


class Panic(BaseException):
    """As the library of tokenizers raises it over a damaged file."""


class Panicking:
    """A tokenizer that renders and cannot encode."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *_: object, **__: object) -> Any:
        raise Panic("index out of bounds:\nthe len is 1")


def test_a_tokenizer_that_panics_is_refused_by_name() -> None:
    chat = replace(tiny_chat.chat(), tokenizer=Panicking(tiny_chat.chat().tokenizer))
    with pytest.raises(
        ModelError, match=r"cannot encode the prompts \(Panic: index out of bounds: the len is 1\)"
    ):
        chat.tokens([SHOW])
