"""Scores of an edit that need no generation: from the log-probabilities of the first answer token.

A score that needs no generation is a proxy; evaluate.py generates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.errors import SelectionError

__all__ = ["behaviour_tokens", "kl_divergence", "log_odds"]

# Arditi et al. keep the logarithms finite with it.
EPSILON = 1e-8
# A token is looked at if it opens at least this share of the answers that show the behaviour.
LEAST_SHARE = 0.01
# The found tokens must put at least this share of prompts on the right side (balanced over the two
# sets).
LEAST_ACCURACY = 0.75


def log_odds(log_probs: Float[Tensor, "prompt vocab"], tokens: Sequence[int]) -> Float[Tensor, prompt]:
    """log P - log(1 - P), P the mass of `tokens`, in float64. Source: Arditi et al., arXiv
    2406.11717, section 2.3.
    """
    mass = log_probs[:, list(tokens)].double().exp().sum(-1).clamp(max=1.0)
    return torch.log(mass + EPSILON) - torch.log(1 - mass + EPSILON)


def kl_divergence(
    base: Float[Tensor, "*batch vocab"], edited: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(base || edited) in nats, from log-probabilities; never negative. NaN in an edited model
    stays NaN.
    """
    return torch.where(base == -torch.inf, 0.0, base.exp() * (base - edited)).sum(-1).clamp_min(0.0)


def behaviour_tokens(
    positive: Float[Tensor, "positive_prompt vocab"], negative: Float[Tensor, "negative_prompt vocab"]
) -> list[int]:
    """The first tokens that best tell answers with the behaviour from others: log-odds above 0
    there, below 0 here.

    Grown one token at a time from the likelier ones, while more prompts come to lie on their side.

    Args:
        positive: log-probabilities of the first token on prompts where the base shows the
            behaviour.
        negative: the same where it does not.

    Raises:
        SelectionError: no tokens tell the two apart, as with models that open every answer alike.
    """
    shows, other = positive.exp().mean(0), negative.exp().mean(0)
    likely = ((shows >= LEAST_SHARE) & (shows > other)).nonzero().flatten()
    left = [int(token) for token in likely[shows[likely].argsort(descending=True)]]
    found: list[int] = []
    best = 0.0
    while left:
        reached, token = max(
            ((_accuracy(positive, negative, [*found, token]), token) for token in left),
            key=lambda pair: pair[0],
        )
        if reached <= best:
            break
        best, found = reached, [*found, token]
        left.remove(token)
    if best < LEAST_ACCURACY:
        raise SelectionError(
            f"no first tokens tell answers with the behaviour from the others (the best put {best:.0%} of prompts on their side), "
            "so a first-token score would say nothing; name the tokens with --behaviour-tokens, or use --recipe article"
        )
    return found


def _accuracy(
    positive: Float[Tensor, "p vocab"], negative: Float[Tensor, "n vocab"], tokens: list[int]
) -> float:
    right = (log_odds(positive, tokens) > 0).double().mean() + (
        log_odds(negative, tokens) < 0
    ).double().mean()
    return float(right) / 2
