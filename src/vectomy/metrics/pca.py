"""Principal component analysis of two sets of activations together, for a plot in two
dimensions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.json_value import JsonObject
from vectomy.core.types import Vector

__all__ = ["principal_components"]

AXES = 2
# A component smaller than this share of the largest is rounding noise.
FLAT = 1e-6


def principal_components(
    positive: Float[Tensor, "p d_model"], negative: Float[Tensor, "n d_model"], direction: Vector
) -> JsonObject | None:
    """Coordinates of every activation on the first two principal components, around the common
    mean.

    A component has no sign. It is chosen so that the positive set's mean has the larger coordinate;
    if the two means are equal, so that the largest loading is positive.

    Returns:
        `positive` and `negative` as (x, y) in the activations' own units; `explained`, the share of
        all variance along each axis; `direction`, the cosine of the direction with each axis. None
        if an activation is not finite.
    """
    together = torch.cat([positive, negative]).double()
    if not bool(torch.isfinite(together).all()):
        return None
    centred = together - together.mean(0)
    # The rows of the last factor are the components, at most as many as points or dimensions.
    _, spread, components = torch.linalg.svd(centred, full_matrices=False)
    axes = torch.zeros(AXES, together.shape[1], dtype=torch.float64)
    explained = torch.zeros(AXES, dtype=torch.float64)
    for index in range(min(AXES, len(spread))):
        if spread[index] > FLAT * spread[0]:
            axes[index] = components[index] * _sign(
                components[index], centred[: len(positive)], float(spread[index])
            )
            explained[index] = spread[index] ** 2 / (spread**2).sum()
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
