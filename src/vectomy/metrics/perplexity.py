"""Perplexity on plain text, in sliding windows."""

from __future__ import annotations

import math
from typing import Any

import torch

from vectomy.core.errors import PromptError
from vectomy.models import ChatModel

__all__ = ["perplexity", "windows"]

# Tokens that a window spans at most, and whose distributions are held at once.
WINDOW = 1024
CHUNK = 256


def windows(count: int, width: int) -> list[tuple[int, int, int]]:
    """(start, end, first) over `count` tokens: each token but the very first is predicted once, in
    the window where it is one of `first` to `end`, from at least half a window of context where the
    text has that much.
    """
    found = [(0, min(width, count), 1)]
    while found[-1][1] < count:
        end = min(found[-1][1] + width // 2, count)
        found.append((max(0, end - width), end, found[-1][1]))
    return found


@torch.inference_mode()
def perplexity(
    chat: ChatModel, text: str, limit: int, batch_tokens: int, width: int = WINDOW
) -> dict[str, Any]:
    """Mean nats per predicted token over the first `limit` tokens of a text, its exponential, and
    how many were predicted.

    The text is tokenised as the model's tokenizer does it by default (with a beginning token where
    it has one), without the chat template.

    Raises:
        PromptError: a text of fewer than two tokens.
    """
    ids = list(chat.tokenizer(text, verbose=False)["input_ids"])[:limit]
    if len(ids) < 2:
        raise PromptError(f"a text of {len(ids)} tokens predicts nothing; give a longer one")
    spans = windows(len(ids), max(2, min(width, chat.context or width)))
    total = 0.0
    for batch in chat.batches([ids[start:end] for start, end, _ in spans], batch_tokens):
        hidden = chat.hidden(batch)
        for row, states in zip(batch.rows, hidden, strict=True):
            _, end, first = spans[row]
            # Padded on the left: the last place holds token `end` - 1, which predicts what is asked
            # of no one.
            predicting, labels = states[first - end - 1 : -1], torch.tensor(ids[first:end])
            for at in range(0, len(labels), CHUNK):
                log_probs = chat.log_probs(predicting[at : at + CHUNK])
                wanted = labels[at : at + CHUNK, None].to(log_probs.device)
                total -= float(log_probs.gather(-1, wanted).cpu().double().sum())
    nats = total / (len(ids) - 1)
    # Beyond this a float has no exponential; such a model predicts nothing anyway.
    return {"nats_per_token": nats, "perplexity": math.exp(min(nats, 700.0)), "tokens": len(ids) - 1}
