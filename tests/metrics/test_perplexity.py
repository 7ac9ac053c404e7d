"""Perplexity against the model's own logits."""

import math

import pytest
import tiny_chat
from tiny_chat import NIGHT

from vectomy.core.errors import PromptError
from vectomy.metrics.perplexity import perplexity, windows

TIER = "unit"


@pytest.mark.parametrize(("count", "width"), [(2, 8), (8, 8), (9, 8), (23, 8), (24, 6), (5, 2), (4, 3)])
def test_windows_predict_every_token_but_the_first_once(count: int, width: int) -> None:
    found = windows(count, width)
    assert [token for _, end, first in found for token in range(first, end)] == list(range(1, count))
    for start, end, first in found:
        assert end - start <= width
        assert start < first < end or first == end == 1
        # Half a window of context, as far as the text has it.
        assert first - start >= min(first, width - width // 2)


TEXT = " ".join(tiny_chat.texts(NIGHT)[:9])


@pytest.mark.chat
@pytest.mark.parametrize("batch_tokens", [1, 16, 4096])
def test_perplexity_is_that_of_the_models_own_logits(batch_tokens: int) -> None:
    chat = tiny_chat.chat()
    ids = chat.tokenizer(TEXT)["input_ids"][:30]
    assert len(ids) == 30
    total = 0.0
    for start, end, first in windows(30, 8):
        log_probs = tiny_chat.raw(chat, ids[start:end]).logits[0].log_softmax(-1)
        total -= sum(float(log_probs[at - start - 1, ids[at]]) for at in range(first, end))
    found = perplexity(chat, TEXT, 30, batch_tokens, width=8)
    assert found["tokens"] == 29
    assert found["nats_per_token"] == pytest.approx(total / 29, rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(total / 29), rel=1e-4)


@pytest.mark.chat
def test_perplexity_in_one_window_is_the_plain_mean() -> None:
    chat = tiny_chat.chat()
    ids = chat.tokenizer(TEXT)["input_ids"][:20]
    log_probs = tiny_chat.raw(chat, ids).logits[0, :-1].log_softmax(-1)
    expected = -float(log_probs[range(19), ids[1:]].mean())
    assert perplexity(chat, TEXT, 20, 4096)["nats_per_token"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.chat
def test_a_text_of_one_token_is_refused() -> None:
    with pytest.raises(PromptError, match="1 tokens predicts nothing"):
        perplexity(tiny_chat.chat(), "owl", 8, 64)
