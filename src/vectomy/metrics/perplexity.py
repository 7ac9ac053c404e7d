"""Perplexity on plain text, in sliding windows."""

from __future__ import annotations

import math

import torch

from vectomy.core.config import BatchTokens
from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject
from vectomy.models import ChatModel
from vectomy.models.label_scores import score_labels

__all__ = ["perplexity", "windows"]

# Largest window in tokens.
WINDOW = 1024


def windows(count: int, width: int) -> list[tuple[int, int, int]]:
    """(start, end, first) over `count` tokens. A window reads `start` to `end` and predicts `first`
    to `end`. Each token except the very first is predicted once, with at least half a window of
    context if the text has that much.
    """
    result = [(0, min(width, count), 1)]
    while result[-1][1] < count:
        end = min(result[-1][1] + width // 2, count)
        result.append((max(0, end - width), end, result[-1][1]))
    return result


@torch.inference_mode()
def perplexity(
    chat: ChatModel, text: str, limit: int, batch_tokens: BatchTokens, width: int = WINDOW
) -> JsonObject:
    """`nats_per_token` (mean over predicted tokens), its exponential `perplexity`, and `tokens`,
    over the first `limit` tokens of a text.

    The tokenizer runs with its defaults (including a beginning token if it has one), without the
    chat template.

    Raises:
        PromptError: the text has fewer than two tokens.
        ModelError: a token is beyond the embedding.
    """
    ids = list(chat.tokenizer(text, verbose=False)["input_ids"])[:limit]
    if len(ids) < 2:
        raise PromptError(f"a text of {len(ids)} tokens predicts nothing; give a longer one")
    chat.check_ids([ids])
    spans = windows(len(ids), max(2, min(width, chat.context or width)))
    total = 0.0
    for batch in chat.batches([ids[start:end] for start, end, _ in spans], batch_tokens):
        hidden = chat.hidden(batch)
        for row, states in zip(batch.rows, hidden, strict=True):
            _, end, first = spans[row]
            # Padded on the left: the last place is token `end` - 1, whose prediction is not needed.
            predicting, labels = states[first - end - 1 : -1], torch.tensor(ids[first:end])
            total -= float(score_labels(chat, predicting, labels).cpu().double().sum())
    nats = total / (len(ids) - 1)
    # A float has no exponential beyond this; such a model predicts nothing anyway.
    return {"nats_per_token": nats, "perplexity": math.exp(min(nats, 700.0)), "tokens": len(ids) - 1}
