"""Scores of candidate directions, as the rule of recipe arditi reads them."""

from typing import Any

import torch

from vectomy.core.linalg import normalise
from vectomy.search.estimators import Directions

Row = dict[str, Any]

# Recipe article


def listed(*means: float) -> Directions:
    """One direction per layer, of unit length and with the given mean of its components, times its
    own length.
    """
    ones = torch.ones(32) / 32**0.5
    aside = normalise(torch.cat([torch.ones(16), -torch.ones(16)]))
    vectors = []
    for at, mean in enumerate(means):
        share = mean * 32**0.5
        vectors.append((at + 1) * (share * ones + (1 - share * share) ** 0.5 * aside))
    return Directions("difference_of_means", ("resid_pre",), (-1,), torch.stack(vectors)[None, :, None])
