"""Scores of an edit that need no generation: from the log-probabilities of the first answer token.

A score that needs no generation is a proxy; evaluate.py generates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.errors import SelectionError

__all__ = ["behaviour_tokens", "kl_divergence", "log_odds"]

# Arditi et al. keep the logarithms finite with it.
EPSILON = 1e-8
# A token speaks for the behaviour if it opens at least this share of answers that show it ...
LEAST_SHARE = 0.02
# ... and is this many times likelier there than elsewhere.
LEAST_RATIO = 4.0


def log_odds(log_probs: Float[Tensor, "prompt vocab"], tokens: Sequence[int]) -> Float[Tensor, prompt]:
    """log P - log(1 - P), P the mass of `tokens`, in float64. Source: Arditi et al., arXiv 2406.11717, section 2.3."""
    mass = log_probs[:, list(tokens)].double().exp().sum(-1).clamp(max=1.0)
    return torch.log(mass + EPSILON) - torch.log(1 - mass + EPSILON)


def kl_divergence(
    base: Float[Tensor, "*batch vocab"], edited: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(base || edited) in nats, from log-probabilities; never negative."""
    return (base.exp() * (base - edited)).nan_to_num(nan=0.0, posinf=float("inf")).sum(-1).clamp_min(0.0)


def behaviour_tokens(
    positive: Float[Tensor, "positive_prompt vocab"], negative: Float[Tensor, "negative_prompt vocab"]
) -> list[int]:
    """The tokens that open answers which show the behaviour, most frequent first.

    Args:
        positive: log-probabilities of the first token on prompts where the base shows the behaviour.
        negative: the same where it does not.

    Raises:
        SelectionError: no token tells the two apart, as with models that open every answer alike.
    """
    shows, other = positive.exp().mean(0), negative.exp().mean(0)
    speaks = (shows >= LEAST_SHARE) & (shows >= LEAST_RATIO * other)
    found = [
        int(token) for token in shows.argsort(descending=True)[: int((shows >= LEAST_SHARE).sum())] if speaks[token]
    ]
    if not found:
        raise SelectionError(
            "no first token tells answers with the behaviour from the others, so a first-token score would say nothing; name "
            "the tokens with --behaviour-tokens, or use --recipe article"
        )
    return found
