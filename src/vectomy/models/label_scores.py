"""Scores of label tokens under a model, a chunk of the labels at a time: the distributions of all
labels over the vocabulary never lie in memory together.

A label's score depends on its own hidden state alone. So the gradient of each chunk is computed
with its scores, and only the gradients, of the width of the stream, are stored for the backward
pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vectomy.models.chat import ChatModel

__all__ = [
    "LabelScore",
    "chunk_labels",
    "count_chunk_labels",
    "kl_divergence",
    "map_labels",
    "score_kl",
    "score_labels",
]

# Distributions in memory at once, and the bytes of these in float32.
MOST_LABELS, CHUNK_BYTES = 256, 64 << 20
FLOAT32 = 4

LabelScore = Callable[[Float[Tensor, "part d_model"], slice], Float[Tensor, " part"]]
"""The scores of some labels, from their hidden states and their place among all labels."""


def count_chunk_labels(vocab: int) -> int:
    """Labels whose distributions may lie in memory together."""
    return max(1, min(MOST_LABELS, CHUNK_BYTES // (FLOAT32 * max(1, vocab))))


def chunk_labels(count: int, vocab: int, most: int | None = None) -> Iterator[slice]:
    """`count` labels, in chunks of `most`, or else `count_chunk_labels`."""
    size = most or count_chunk_labels(vocab)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def kl_divergence(
    base: Float[Tensor, "*batch vocab"], edited: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(base || edited) in nats, from log-probabilities; never negative. NaN of an edited model
    stays NaN.
    """
    return torch.where(base == -torch.inf, 0.0, base.exp() * (base - edited)).sum(-1).clamp_min(0.0)


def map_labels(
    chat: ChatModel, hidden: Float[Tensor, "label d_model"], score: LabelScore, most: int | None = None
) -> Float[Tensor, " label"]:
    """The score of each label, differentiable in `hidden` where gradients are computed.

    Args:
        most: labels of a chunk; by the size of the vocabulary unless given. If one chunk is enough,
            autograd runs through `score` as usual.
    """
    chunks = list(chunk_labels(len(hidden), chat.architecture.vocab, most))
    if len(chunks) == 1:
        return score(hidden, chunks[0])
    if torch.is_grad_enabled() and hidden.requires_grad:
        result: Tensor = _ChunkedScores.apply(hidden, score, chunks)
        return result
    return torch.cat([score(hidden[rows], rows) for rows in chunks]) if chunks else hidden.new_empty(0)


def score_labels(
    chat: ChatModel,
    hidden: Float[Tensor, "label d_model"],
    labels: Int[Tensor, " label"],
    most: int | None = None,
) -> Float[Tensor, " label"]:
    """Log-probabilities of label tokens, float32, on the device of the head."""

    def score(part: Tensor, rows: slice) -> Tensor:
        log_probs = chat.log_probs(part)
        return log_probs.gather(-1, labels[rows, None].to(log_probs.device))[:, 0]

    return map_labels(chat, hidden, score, most)


def score_kl(
    chat: ChatModel,
    base: Float[Tensor, "label d_model"],
    hidden: Float[Tensor, "label d_model"],
    most: int | None = None,
) -> Float[Tensor, " label"]:
    """KL(base || edited) of each label in nats, from the hidden states that predict it; float32.
    The head is that of `chat` for both.
    """

    def score(part: Tensor, rows: slice) -> Tensor:
        return kl_divergence(chat.log_probs(base[rows]), chat.log_probs(part))

    return map_labels(chat, hidden, score, most)


class _ChunkedScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, score: LabelScore, chunks: list[slice]) -> Tensor:
        scores, gradients = [], []
        for rows in chunks:
            part = hidden[rows].detach().requires_grad_()
            with torch.enable_grad():
                value = score(part, rows)
                gradients += torch.autograd.grad(value.sum(), part)
            scores.append(value.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (of_scores,), (stored,) = gradients, ctx.saved_tensors
        return (of_scores[:, None].to(stored.device) * stored).to(stored.dtype), None, None
