"""Batches that run out of memory are halved; the size of a pass comes from the free memory."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_chat
import torch
from transformers import AutoConfig

from vectomy.models.batch import Batch, halve_until_fits
from vectomy.models.memory import FEWEST_TOKENS, MOST_TOKENS, count_pass_tokens

TIER = "chat"


def batches(*sizes: int) -> list[Batch]:
    ids = iter(range(1000))
    return [
        Batch(rows, torch.tensor(rows)[:, None], torch.ones(len(rows), 1, dtype=torch.long))
        for rows in ([next(ids) for _ in range(size)] for size in sizes)
    ]


FULL = [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
def test_every_row_is_run_once_in_order_whatever_fits(most: int, error: RuntimeError) -> None:
    tried: list[int] = []

    def work(batch: Batch) -> list[int]:
        tried.append(len(batch.rows))
        if len(batch.rows) > most:
            raise error
        return batch.input_ids[:, 0].tolist()

    pieces = list(halve_until_fits(batches(7, 7, 3), work))
    assert [row for batch, _ in pieces for row in batch.rows] == list(range(17))
    assert all(batch.rows == result for batch, result in pieces)
    # What has failed once is not tried again with the later batches.
    assert sum(size > most for size in tried) <= 3


def test_other_errors_are_not_retried() -> None:
    tried: list[int] = []

    def work(batch: Batch) -> None:
        tried.append(len(batch.rows))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        list(halve_until_fits(batches(4), work))
    assert tried == [4]


def test_a_row_that_does_not_fit_alone_is_said() -> None:
    def work(_batch: Batch) -> None:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        list(halve_until_fits(batches(4), work))


def test_answers_of_halved_batches_are_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = tiny_chat.chat()
    ids = chat.tokens([*tiny_chat.prompts(tiny_chat.DAY, 6), *tiny_chat.prompts(tiny_chat.NIGHT, 5)])
    expected, log_probs = chat.answer(ids, 8, 4096), chat.next_token_log_probs(ids, 4096)
    original = type(chat.model.model).forward

    def forward(model: Any, input_ids: Any = None, **more: Any) -> Any:
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("full")
        return original(model, input_ids, **more)

    monkeypatch.setattr(type(chat.model.model), "forward", forward)
    assert chat.answer(ids, 8, 4096) == expected
    torch.testing.assert_close(chat.next_token_log_probs(ids, 4096), log_probs)


def test_auto_is_a_fixed_number_of_tokens_on_a_processor() -> None:
    chat = tiny_chat.chat()
    assert chat.pass_tokens("auto") == 4096
    assert chat.pass_tokens(100) == 100


def test_the_size_of_a_pass_grows_with_the_free_memory_and_falls_with_the_model() -> None:
    small, large = (
        AutoConfig.for_model(
            "llama",
            hidden_size=size,
            intermediate_size=7 * size // 2,
            num_hidden_layers=layers,
            num_attention_heads=32,
            num_key_value_heads=8,
        )
        for size, layers in ((2048, 16), (4096, 32))
    )
    free = 8 << 30
    assert count_pass_tokens(small, free, 2) > count_pass_tokens(large, free, 2)
    assert count_pass_tokens(large, 2 * free, 2) == pytest.approx(
        2 * count_pass_tokens(large, free, 2), rel=0.01
    )
    assert count_pass_tokens(large, free, 4) == pytest.approx(count_pass_tokens(large, free, 2) / 2, rel=0.01)
    # Keys and values of 32 layers alone: 128 KiB a token at 16 bits.
    assert count_pass_tokens(large, free, 2) * (128 << 10) < free
    assert count_pass_tokens(large, 0, 2) == FEWEST_TOKENS
    assert count_pass_tokens(large, 1 << 50, 2) == MOST_TOKENS


def test_a_mixture_counts_the_experts_that_a_token_goes_through() -> None:
    config = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 512}
    few, many = (
        AutoConfig.for_model("qwen3_moe", **config, num_experts_per_tok=count, moe_intermediate_size=1024)
        for count in (2, 8)
    )
    assert count_pass_tokens(few, 1 << 30, 2) > count_pass_tokens(many, 1 << 30, 2)
