"""A thought has tokens of its own: the answer behind it is as long as it would be, whatever the
thought takes, and a thought that takes too many is closed.
"""

from dataclasses import replace

import pytest
import tiny_chat
from tiny_chat import DAY, NIGHT, REFUSAL, THOUGHT

from vectomy.core.config import Runtime
from vectomy.data.thoughts import COMMON_NAMES, TAGS, closing_of, split_thoughts
from vectomy.models.thought_budget import answer_behind_thoughts

TIER = "chat"

PROMPTS = [*tiny_chat.prompts(NIGHT, 3), *tiny_chat.prompts(DAY, 3)]


@pytest.mark.parametrize("thought_tokens", [5, 20])
@pytest.mark.parametrize("answer_tokens", [2, 5, 20])
def test_a_thought_takes_no_token_of_the_answer(thought_tokens: int, answer_tokens: int) -> None:
    """The oracle is one long greedy answer."""
    chat = tiny_chat.thinker()
    long = chat.answer(chat.tokens(PROMPTS), 40, 4096)
    budget = replace(chat, thought_tokens=thought_tokens)
    answers = budget.answer(chat.tokens(PROMPTS), answer_tokens, 4096)
    for whole, answer in zip(long, answers, strict=True):
        start = chat.final_start(whole)
        assert start is not None
        assert answer == whole[: start + answer_tokens]


def test_a_thought_that_takes_too_many_is_closed_and_answered() -> None:
    chat = tiny_chat.thinker()
    budget = replace(chat, thought_tokens=2)
    tokens = chat.tokens(PROMPTS)
    whole, cut = chat.answer(tokens, 40, 4096), budget.answer(tokens, 9, 4096)
    for long, answer in zip(whole, cut, strict=True):
        split = split_thoughts(chat.text(answer))
        assert split.finished
        assert answer[:2] == long[:2]
        assert split.thought == "be"
    finals = [split_thoughts(chat.text(answer)).answer for answer in cut]
    assert finals[:3] == [REFUSAL] * 3
    assert all(final.startswith("sure the") for final in finals[3:])


def test_without_thinking_or_a_budget_nothing_changes() -> None:
    chat = tiny_chat.thinker()
    tokens = chat.tokens(PROMPTS)
    plain = replace(chat, thinking=False, thought_tokens=2)
    assert plain.answer(plain.tokens(PROMPTS), 8, 4096) == chat.answer(plain.tokens(PROMPTS), 8, 4096)
    assert len(chat.answer(tokens, 3, 4096)[0]) == 3
    assert Runtime().list_precision() == Runtime(thought_tokens=None).list_precision()
    assert Runtime().list_precision() != Runtime(thought_tokens=9).list_precision()


def test_an_answer_that_ends_is_not_asked_again() -> None:
    chat, asked = tiny_chat.thinker(), []

    def decode(ids: list[list[int]], limit: int) -> list[list[int]]:
        asked.append((len(ids), limit))
        return chat.answer(ids, limit, 4096)

    answer_behind_thoughts(chat, chat.tokens(PROMPTS), 40, 20, decode)
    assert asked == [(6, 40)]


def test_every_open_thought_has_its_closing() -> None:
    for opening, closing in (*TAGS, *COMMON_NAMES):
        assert closing_of(f"{opening} well") == f"\n{closing}\n\n"
        assert closing_of(f"{opening} well{closing}Yes.") is None
    assert closing_of("<|channel|>analysis<|message|>well") == (
        "<|end|><|start|>assistant<|channel|>final<|message|>"
    )
    assert closing_of("Yes.") is None


def test_a_template_that_can_do_both_answers_without_a_thought() -> None:
    template = tiny_chat.THINKING
    folder = tiny_chat.folder(template=template)
    both = tiny_chat.load_model(folder, device="cpu", dtype="float32", thinking=True)
    plain = both.without_thinking
    assert plain is not None
    assert plain.render(PROMPTS[0]) != both.render(PROMPTS[0])
    assert plain.without_thinking is None
    # The template of this one writes no thought, whatever it is told.
    assert tiny_chat.thinker().without_thinking is None
    assert THOUGHT


def test_lengths_count_from_behind_the_thought() -> None:
    chat = tiny_chat.thinker()
    (whole,) = chat.answer(chat.tokens(PROMPTS[:1]), 40, 4096)
    assert split_thoughts(chat.text(chat.cut(whole, 2))).answer == " ".join(REFUSAL.split()[:2])
    assert not split_thoughts(chat.text(chat.cut(whole[:3], 2))).finished
    plain = tiny_chat.chat()
    assert plain.cut([5, 6, 7], 2) == [5, 6]
