"""The cost of an edit where it should change nothing: KL and cross-entropy over the base's own
answers, teacher-forced.

KL needs the base's distribution at each token. Only the last hidden states are stored, from which
the base's head computes it: d_model numbers per token instead of one per vocabulary entry.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.config import BatchTokens
from vectomy.core.ranks import current_ranks
from vectomy.data.prompts import Prompt
from vectomy.models import ChatModel
from vectomy.models.label_scores import chunk_labels, kl_divergence

__all__ = ["answer_hidden", "divergence"]


@torch.inference_mode()
def answer_hidden(
    chat: ChatModel, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], batch_tokens: BatchTokens
) -> list[Float[Tensor, "_ d_model"]]:
    """Last hidden states at the positions that predict the answer tokens, teacher-forced, on the
    CPU; one tensor per prompt. The batches are shared by the ranks.
    """
    ranks = current_ranks()
    tokens = [ids + list(answer) for ids, answer in zip(chat.tokens(prompts), answers, strict=True)]
    result: dict[int, Tensor] = {}
    for batch in ranks.share(chat.batches(tokens, batch_tokens)):
        hidden = chat.hidden(batch)
        for row, states in zip(batch.rows, hidden, strict=True):
            # Padded on the left: the answer ends the row, and each token is predicted one place
            # earlier.
            result[row] = states[-len(answers[row]) - 1 : -1].cpu().clone()
    result = ranks.merge(result)
    return [result[row] for row in range(len(tokens))]


@torch.inference_mode()
def divergence(
    base: ChatModel,
    now: ChatModel,
    before: Sequence[Float[Tensor, "_ d_model"]],
    after: Sequence[Float[Tensor, "_ d_model"]],
    answers: Sequence[Sequence[int]],
) -> dict[str, float]:
    """KL(base || now) of the first token and per token, and cross-entropy of the base's answers
    under `now`, in nats; of two answers or more also the standard error of the KL per token.

    Per-token figures weigh every token equally; the first-token figure weighs every prompt equally.

    Args:
        before: hidden states of the base on the answers; `after` those of `now`. Each model's own
            head reads its states.
    """
    first = torch.cat([rows[:1] for rows in before]), torch.cat([rows[:1] for rows in after])
    labels = torch.tensor([token for answer in answers for token in answer])
    every_kl: list[Tensor] = []
    kl, entropy = _compare(base, now, torch.cat(list(before)), torch.cat(list(after)), labels, every_kl)
    kl_first, _ = _compare(base, now, *first, torch.tensor([answer[0] for answer in answers]))
    result = {"kl_first_token": kl_first, "kl_per_token": kl, "ce_own_answers": entropy}
    if len(answers) > 1:
        result["kl_per_token_stderr"] = _ratio_error(torch.cat(every_kl), [len(rows) for rows in before])
    return result


def _ratio_error(every_kl: Float[Tensor, " token"], lengths: Sequence[int]) -> float:
    """Standard error of the mean over tokens. Answers are the independent samples, their tokens are
    not: the ratio estimator (Cochran, Sampling Techniques, 1977, section 6.3).
    """
    count, total = len(lengths), sum(lengths)
    sums = torch.stack([part.sum() for part in every_kl.split(list(lengths))])
    off = sums - sums.sum() / total * torch.tensor(lengths, dtype=sums.dtype)
    return float((count / (count - 1) * off.square().sum()).sqrt() / total)


def _compare(
    base: ChatModel,
    now: ChatModel,
    before: Float[Tensor, "token d_model"],
    after: Float[Tensor, "token d_model_now"],
    labels: Tensor,
    every_kl: list[Tensor] | None = None,
) -> tuple[float, float]:
    """Mean KL(base || now) and mean cross-entropy of `labels`, in nats; `every_kl` takes the KL of
    each token.
    """
    divergence, entropy = 0.0, 0.0
    for rows in chunk_labels(len(before), now.architecture.vocab):
        ours = base.log_probs(before[rows].to(base.device))
        theirs = now.log_probs(after[rows].to(now.device))
        kl = kl_divergence(ours.to(theirs.device), theirs).cpu().double()
        divergence += float(kl.sum())
        if every_kl is not None:
            every_kl.append(kl)
        entropy -= float(theirs.gather(-1, labels[rows, None].to(theirs.device)).cpu().double().sum())
    return divergence / len(before), entropy / len(before)
