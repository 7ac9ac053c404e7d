"""Decoding with a shared beginning and rows that leave gives, token for token, what `generate`
gives.
"""

import copy
from dataclasses import replace
from typing import Any

import pytest
import tiny_chat
import torch
from tiny_chat import DAY, NIGHT
from virtual_devices import virtual_machine

from vectomy.data.prompts import Prompt
from vectomy.edits.edit import Edit
from vectomy.models import ChatModel, decoding, kv_cache, load_model
from vectomy.models.decoding import decodes_by_row
from vectomy.models.generation import GreedyDecoder, shared_beginning
from vectomy.models.kv_cache import has_plain_kv_cache

TIER = "chat"

LONG = [Prompt("x " * count + "show the owl red") for count in (0, 3, 9)]
PROMPTS = [*tiny_chat.prompts(NIGHT, 7), *LONG, *tiny_chat.prompts(DAY, 7)]


@pytest.fixture(scope="module", autouse=True)
def _taught() -> None:
    tiny_chat.chat()


def untried(chat: ChatModel) -> ChatModel:
    """The same model, on which no way of decoding has been tried."""
    return replace(chat, model=copy.deepcopy(chat.model))


@pytest.mark.parametrize("limit", [1, 2, 12])
@pytest.mark.parametrize("budget", [4096, 60])
def test_the_same_tokens_as_generate(monkeypatch: pytest.MonkeyPatch, limit: int, budget: int) -> None:
    chat = tiny_chat.chat()
    tokens = chat.tokens(PROMPTS)
    found = chat.answer(tokens, limit, budget)
    monkeypatch.setattr(kv_cache, "has_plain_kv_cache", lambda _: False)
    generated = untried(chat)
    assert found == generated.answer(tokens, limit, budget)
    assert not decodes_by_row(generated, tokens)
    assert len({len(answer) for answer in found}) > 1 or limit < 3


def test_the_shared_beginning_is_run_once_and_rows_leave() -> None:
    chat = tiny_chat.chat()
    tokens = chat.tokens(PROMPTS)
    assert shared_beginning(tokens) == 2
    seen: list[tuple[int, ...]] = []
    block = chat.model.get_submodule(chat.architecture.block(0))
    chat.answer(tokens, 4, 4096)
    handle = block.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(tuple((args or tuple(kwargs.values()))[0].shape[:2])),
        with_kwargs=True,
    )
    answers = chat.answer(tokens, 12, 4096)
    handle.remove()
    assert seen[0] == (1, 2)
    assert seen[1] == (len(PROMPTS), max(map(len, tokens)) - 2)
    assert all(width == 1 for _, width in seen[2:])
    assert seen[-1][0] < len(PROMPTS)
    assert len(seen) - 1 == max(map(len, answers))


def _raises(*_: object) -> None:
    raise AttributeError("this memory has no rows")


@pytest.mark.parametrize("broken", [_raises, lambda *_: [(0, [3, 3, 3, 3]), (1, [3, 3, 3, 3])]])
def test_a_model_that_decodes_otherwise_is_left_to_generate(
    monkeypatch: pytest.MonkeyPatch, broken: object
) -> None:
    """Found out by trying: the class of the memory alone does not tell."""
    chat = tiny_chat.chat()
    assert has_plain_kv_cache(chat.model)
    tokens = chat.tokens(PROMPTS)
    expected = chat.answer(tokens, 6, 4096)
    monkeypatch.setattr(GreedyDecoder, "answers", broken)
    other = untried(chat)
    assert other.answer(tokens, 6, 4096) == expected
    assert not decodes_by_row(other, tokens)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, True), (torch.float32, False)])
def test_in_16_bits_one_token_apart_is_rounding_until_other_prompts_say_so(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, expected: bool
) -> None:
    chat = untried(tiny_chat.chat())
    chat.model.to(dtype)
    original: Any = decoding.generate
    calls: list[int] = []

    def part_once(*args: Any) -> list[list[int]]:
        calls.append(1)
        answers = original(*args)
        return [[*answer[:-1], answer[-1] + 1] for answer in answers] if len(calls) == 1 else answers

    monkeypatch.setattr(decoding, "generate", part_once)
    assert decodes_by_row(chat, chat.tokens(PROMPTS)) is expected
    assert len(calls) == 1 + expected


def test_beginnings() -> None:
    assert shared_beginning([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_beginning([[1, 2], [1, 2, 3]]) == 1
    assert shared_beginning([[7, 8, 9]]) == 2
    assert shared_beginning([]) == 0


def test_each_prompt_keeps_its_strength_while_rows_leave_and_join() -> None:
    """The oracle: all prompts under one strength after the other. The edit takes away what makes
    the model refuse.
    """
    chat = tiny_chat.chat()
    tokens = chat.tokens(PROMPTS)
    direction = torch.randn(chat.architecture.d_model, generator=torch.Generator().manual_seed(3))
    edit = Edit.ablation(chat.checkpoint, direction)
    by_strength = {}
    for strength in (0.0, 1.0):
        with edit.hooks(chat.model, strength=strength):
            by_strength[strength] = chat.answer(tokens, 8, 4096)
    assert by_strength[0.0] != by_strength[1.0]
    strengths = [float(index % 2) for index in range(len(tokens))]
    expected = [by_strength[strength][index] for index, strength in enumerate(strengths)]
    with edit.hooks(chat.model, strength=strengths):
        assert chat.answer(tokens, 8, 4096) == expected
        assert chat.answer(tokens, 8, 60) == expected


@pytest.mark.parametrize("cards", [1, 2])
def test_own_decoding_runs_on_one_card_and_on_two(cards: int) -> None:
    """Rows leave and join where each layer keeps its keys and values. Tokens are looked at every
    eighth step on a card.
    """
    expected = tiny_chat.chat().answer(tiny_chat.chat().tokens(PROMPTS), 12, 60)
    with virtual_machine("cuda", cards):
        chat = load_model(tiny_chat.folder(), device="auto", dtype="float32")
        tokens = chat.tokens(PROMPTS)
        assert chat.device.type == "cuda"
        assert decodes_by_row(chat, tokens)
        assert chat.answer(tokens, 12, 60) == expected


class ScheduledDecoder(GreedyDecoder):
    """Computes nothing; counts rows of steps."""

    rows = 0

    def _step(self, rows: Any) -> torch.Tensor:
        self.rows += len(rows.prompts)
        return super()._step(rows)

    def _forward(self, ids: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.zeros(*ids.shape, 1)


def test_waiting_prompts_take_the_places_of_ended_rows_without_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answers of 1 to 20 tokens, 8 at a time: no row stays free while prompts wait, and the cache
    is copied where its room ends, not for each row.
    """
    copies: list[object] = []
    join = kv_cache.join_rows

    def count(cache: Any, kept: Any, *rest: Any) -> None:
        copies.append(kept)
        join(cache, kept, *rest)

    monkeypatch.setattr(kv_cache, "join_rows", count)
    generator = torch.Generator().manual_seed(2)
    prompts = {index: [1] * (5 + index % 3) for index in range(80)}
    decoder = ScheduledDecoder(
        tiny_chat.chat().model,
        lambda hidden: (torch.rand(len(hidden), generator=generator) > 0.1).long(),
        [],
        [0],
        torch.device("cpu"),
    )
    answers = dict(decoder.answers(prompts, 20, places=8 * 27, pass_tokens=64))
    assert answers.keys() == prompts.keys()
    needed = sum(map(len, answers.values())) - len(answers)
    assert needed <= decoder.rows < 1.15 * needed
    assert len(copies) < len(prompts) / 4
