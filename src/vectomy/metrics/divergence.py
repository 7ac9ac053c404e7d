"""What an edit costs where it should change nothing: KL and cross-entropy over the base's own
answers, teacher-forced.

KL needs the base's distribution at each token. Kept are the last hidden states, from which the
base's head gives it back: d_model numbers a token instead of a vocabulary's worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.data.prompts import Prompt
from vectomy.metrics.logits import kl_divergence
from vectomy.models import ChatModel

__all__ = ["answer_hidden", "divergence"]

# Tokens whose distributions are held at once: 256 x 150,000 x 4 bytes is 150 MB.
CHUNK = 256


@torch.inference_mode()
def answer_hidden(
    chat: ChatModel, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], batch_tokens: int
) -> list[Float[Tensor, "_ d_model"]]:
    """Last hidden states at the positions that predict each answer token, teacher-forced, on the
    CPU.
    """
    tokens = [ids + list(answer) for ids, answer in zip(chat.tokens(prompts), answers, strict=True)]
    kept: list[Tensor] = [torch.empty(0)] * len(tokens)
    for batch in chat.batches(tokens, batch_tokens):
        hidden = chat.hidden(batch)
        for row, states in zip(batch.rows, hidden, strict=True):
            # Padded on the left: the answer fills the last places, each predicted one place before.
            kept[row] = states[-len(answers[row]) - 1 : -1].cpu().clone()
    return kept


@torch.inference_mode()
def divergence(
    base: ChatModel,
    now: ChatModel,
    before: Sequence[Float[Tensor, "_ d_model"]],
    after: Sequence[Float[Tensor, "_ d_model"]],
    answers: Sequence[Sequence[int]],
) -> dict[str, float]:
    """KL(base || now) of the first token and per token, and cross-entropy of the base's answers
    under `now`, in nats.

    `before` and `after` are the hidden states of the two models on these answers; each model's own
    head reads them. Per-token figures weigh every token alike; the first-token one every prompt.
    """
    first = torch.cat([rows[:1] for rows in before]), torch.cat([rows[:1] for rows in after])
    labels = torch.tensor([token for answer in answers for token in answer])
    kl, entropy = _compare(base, now, torch.cat(list(before)), torch.cat(list(after)), labels)
    kl_first, _ = _compare(base, now, *first, torch.tensor([answer[0] for answer in answers]))
    return {"kl_first_token": kl_first, "kl_per_token": kl, "ce_own_answers": entropy}


def _compare(
    base: ChatModel,
    now: ChatModel,
    before: Float[Tensor, "token d_model"],
    after: Float[Tensor, "token d_model_now"],
    labels: Tensor,
) -> tuple[float, float]:
    """Mean KL(base || now) and mean cross-entropy of `labels`, in nats."""
    divergence, entropy = 0.0, 0.0
    for at in range(0, len(before), CHUNK):
        rows = slice(at, at + CHUNK)
        ours = base.log_probs(before[rows].to(base.device))
        theirs = now.log_probs(after[rows].to(now.device))
        divergence += float(kl_divergence(ours.to(theirs.device), theirs).cpu().double().sum())
        entropy -= float(theirs.gather(-1, labels[rows, None].to(theirs.device)).cpu().double().sum())
    return divergence / len(before), entropy / len(before)
