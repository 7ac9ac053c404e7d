"""Scores from the log-probabilities of the first answer token, without generating.

Such a score is a proxy: evaluation generates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.errors import SelectionError

__all__ = ["behaviour_tokens", "log_odds"]

# Keeps the logarithms finite, as in Arditi et al.
EPSILON = 1e-8
# A token is a candidate if it opens at least this share of the answers that show the behaviour.
LEAST_SHARE = 0.01
# Smallest balanced accuracy of the chosen tokens over the two prompt sets.
LEAST_ACCURACY = 0.75


def log_odds(log_probs: Float[Tensor, "prompt vocab"], tokens: Sequence[int]) -> Float[Tensor, prompt]:
    """log P - log(1 - P), where P is the probability of `tokens` together; float64.

    Source: Arditi et al., arXiv 2406.11717, section 2.3.
    """
    mass = log_probs[:, list(tokens)].double().exp().sum(-1).clamp(max=1.0)
    return torch.log(mass + EPSILON) - torch.log(1 - mass + EPSILON)


def behaviour_tokens(
    positive: Float[Tensor, "positive_prompt vocab"], negative: Float[Tensor, "negative_prompt vocab"]
) -> list[int]:
    """The first tokens that best separate answers with the behaviour from other answers: log-odds
    above 0 for the former, below 0 for the latter.

    Tokens are added greedily, the likeliest first, as long as the balanced accuracy rises.

    Args:
        positive: log-probabilities of the first token on prompts where the base shows the
            behaviour.
        negative: the same where it does not.

    Raises:
        SelectionError: no tokens separate the two, as in models that open every answer alike.
    """
    shows, other = positive.exp().mean(0), negative.exp().mean(0)
    likely = ((shows >= LEAST_SHARE) & (shows > other)).nonzero().flatten()
    left = [int(token) for token in likely[shows[likely].argsort(descending=True)]]
    chosen: list[int] = []
    best = 0.0
    while left:
        reached, token = max(
            ((_accuracy(positive, negative, [*chosen, token]), token) for token in left),
            key=lambda pair: pair[0],
        )
        if reached <= best:
            break
        best, chosen = reached, [*chosen, token]
        left.remove(token)
    if best < LEAST_ACCURACY:
        raise SelectionError(
            "no first tokens separate answers with the behaviour from other answers (best balanced "
            f"accuracy {best:.0%}), so a first-token score is meaningless (a model that thinks first opens "
            "every answer with its thought); name the tokens with --behaviour-tokens, or use --recipe article"
        )
    return chosen


def _accuracy(
    positive: Float[Tensor, "p vocab"], negative: Float[Tensor, "n vocab"], tokens: list[int]
) -> float:
    right = (log_odds(positive, tokens) > 0).double().mean() + (
        log_odds(negative, tokens) < 0
    ).double().mean()
    return float(right) / 2
