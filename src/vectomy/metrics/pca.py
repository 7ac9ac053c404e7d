"""The plane in which two sets of activations are spread most: principal component analysis of both
together.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.types import Vector

__all__ = ["principal_components"]

AXES = 2
# A component of less than this share of the largest is rounding: the points have no extent there.
FLAT = 1e-6


def principal_components(
    positive: Float[Tensor, "p d_model"], negative: Float[Tensor, "n d_model"], direction: Vector
) -> dict[str, Any] | None:
    """Coordinates of every activation on the first two principal components, about the mean of all.

    A component has no sign of its own. It is turned so that the positive set's mean lies on the
    side of larger numbers; where the two means are level, so that its largest loading is positive.

    Returns:
        `positive` and `negative` as (x, y) in the activations' own units; `explained`, the share of
        all variance along each axis; `direction`, the cosine of the direction with each axis. None
        where an activation is not finite.
    """
    together = torch.cat([positive, negative]).double()
    if not bool(torch.isfinite(together).all()):
        return None
    centred = together - together.mean(0)
    # Rows of the last factor are the components; at most as many as there are points or dimensions.
    _, spread, components = torch.linalg.svd(centred, full_matrices=False)
    axes = torch.zeros(AXES, together.shape[1], dtype=torch.float64)
    explained = torch.zeros(AXES, dtype=torch.float64)
    for at in range(min(AXES, len(spread))):
        if spread[at] > FLAT * spread[0]:
            axes[at] = components[at] * _sign(components[at], centred[: len(positive)], float(spread[at]))
            explained[at] = spread[at] ** 2 / (spread**2).sum()
    placed = centred @ axes.T
    return {
        "positive": placed[: len(positive)].tolist(),
        "negative": placed[len(positive) :].tolist(),
        "explained": explained.tolist(),
        "direction": (axes @ direction.double()).tolist(),
    }


def _sign(component: Tensor, positive: Tensor, spread: float) -> float:
    side = float((positive @ component).mean())
    if abs(side) <= FLAT * spread:
        side = float(component[component.abs().argmax()])
    return 1.0 if side >= 0 else -1.0
