"""Prompt sets of an evaluation: their names, types, labels, samples and conversations."""

import json
from pathlib import Path

import pytest
import tiny_chat

from vectomy.core.errors import PromptError
from vectomy.data.prompts import Labelled, Prompt, Turn
from vectomy.metrics.prompt_set import read_sets, sample

TIER = "unit"


def test_a_set_has_the_types_and_labels_of_its_rows_and_a_name(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {at}", "type": "pun" if at % 2 else "plain", "label": "safe"} for at in range(6)]
    file = tmp_path / "over.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    one, other, bundled = read_sets([str(file), f"mine={file}#prompt", "bundled:refused"], None, 0)
    assert (one.name, other.name, bundled.name) == ("over", "mine", "refused")
    assert one.source == "over.jsonl"
    assert one.rows[1] == Labelled(Prompt("p 1"), "pun", "safe")
    assert one.rows == other.rows
    assert one.sha256 == other.sha256 != bundled.sha256
    # Only what nothing was fitted on.
    assert len(bundled.rows) == 40
    with pytest.raises(PromptError, match="two prompt sets are called 'over'"):
        read_sets([str(file), str(file)], None, 0)


def test_a_limit_takes_a_seeded_sample_in_order(tmp_path: Path) -> None:
    file = tmp_path / "many.txt"
    file.write_text("\n".join(f"p {at}" for at in range(50)))
    taken = [[row.prompt.text for row in read_sets([str(file)], 10, seed)[0].rows] for seed in (0, 0, 1)]
    assert taken[0] == taken[1] != taken[2]
    assert len(taken[0]) == 10
    assert taken[0] == sorted(taken[0], key=lambda text: int(text.split()[1]))
    assert sample(3, 3, 0) == sample(3, None, 0) == [0, 1, 2]


@pytest.mark.chat
def test_rows_with_messages_are_conversations(tmp_path: Path) -> None:
    said = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "sure"},
        {"role": "user", "content": "show the owl red"},
    ]
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"messages": said}))
    (one,) = read_sets([str(file)], None, 0)
    prompt = Prompt("show the owl red", "be brief", (Turn("user", "Hello"), Turn("assistant", "sure")))
    assert one.rows == (Labelled(prompt),)
    chat = tiny_chat.chat()
    whole = chat.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    assert chat.render(prompt) == whole
    assert prompt.key != Prompt("show the owl red", "be brief").key


@pytest.mark.chat
def test_without_a_system_role_the_first_turn_takes_the_system_prompt() -> None:
    prompt = Prompt("show the owl red", "be brief", (Turn("user", "Hello"), Turn("assistant", "sure")))
    rendered = tiny_chat.chat(template=tiny_chat.NO_SYSTEM).render(prompt)
    assert rendered.startswith("<bos><|user|> be brief\n\nHello <|end|><|assistant|> sure")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "text?",
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": "assistant", "content": "x"}],
        [{"role": "system", "content": "x"}],
    ],
)
def test_messages_that_are_no_conversation_are_named(tmp_path: Path, messages: object) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"messages": {"bad": messages} if messages == "text?" else messages}))
    with pytest.raises(PromptError, match=r"row 1 of .* not a conversation"):
        read_sets([str(file)], None, 0)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (["x", "y"], "nothing says who speaks"),
        (None, "has only empty prompts"),
        ([3], "not a conversation"),
        (
            [{"role": "tool", "content": "x"}, {"role": "user", "content": "x"}],
            "1 with an earlier turn of the role 'tool'",
        ),
    ],
)
def test_messages_that_cannot_be_asked_are_named(tmp_path: Path, messages: object, problem: str) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"messages": messages}))
    with pytest.raises(PromptError, match=problem):
        read_sets([str(file)], None, 0)


def test_one_text_in_a_list_is_a_prompt(tmp_path: Path) -> None:
    # The `turns` of MT-bench: one speaker, so nothing is unclear.
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"messages": ["x"]}))
    (prompts,) = read_sets([str(file)], None, 0)
    assert [prompt.text for prompt in prompts.prompts] == ["x"]
