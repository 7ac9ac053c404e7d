"""An Edit from a dozen numbers: for each component a schedule of strengths over the layers, and one
rule for directions.

    strength at layer l = maximum (1 - (1 - minimum) d / distance),  d = |l - position| <= distance

Layers further away have no strength. `minimum` is a share of `maximum`. The direction is the same
everywhere (global: interpolated between two layers), or each layer has its own.

This is the parametrisation of Heretic (github.com/p-e-w/heretic), reimplemented from its
description, with its norm mode "none". Heretic's default restores the row norms, by a rank-3
approximation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.component import COMPONENTS, Component
from vectomy.core.linalg import normalise
from vectomy.core.types import Vector
from vectomy.edits.edit import BaseModelRef, Edit, Operation
from vectomy.search.estimators import Directions

__all__ = [
    "SCOPES",
    "LayerWeightSchedule",
    "Parameters",
    "Place",
    "build_edit",
    "directions_after",
    "heaviest_layer",
    "ranges",
]

Place = tuple[Component, int]
"""A writer of a block, by component and layer."""
Parameters = Mapping[str, float | str]
"""`scope`, and the numbers that `ranges` lists."""
SCOPES = ("global", "per layer")


@dataclass(frozen=True)
class LayerWeightSchedule:
    """Strengths over layers; `position` and `distance` in layers, `minimum` a share of
    `maximum`.
    """

    maximum: float
    position: float
    minimum: float
    distance: float

    def at(self, layer: int) -> float | None:
        """The strength at a layer; None beyond `distance`."""
        away = abs(layer - self.position)
        return (
            None if away > self.distance else self.maximum * (1 - (1 - self.minimum) * away / self.distance)
        )


def ranges(places: Sequence[Place], n_layers: int) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each number, always in the same order."""
    last = n_layers - 1
    result = {"direction": (0.4 * last, 0.9 * last)}
    for component in sorted({component for component, _ in places}, key=COMPONENTS.index):
        result[f"{component} maximum"] = (0.8, 1.5)
        result[f"{component} position"] = (0.6 * last, 1.0 * last)
        result[f"{component} minimum"] = (0.0, 1.0)
        result[f"{component} distance"] = (1.0, max(1.0, 0.6 * last))
    return result


def directions_after(directions: Directions) -> Float[Tensor, "layer d_model"]:
    """The unit direction after each layer at the last token, which is resid_pre of the next layer.
    The last layer has no next one and takes its own resid_pre. Zero where the two sets do not
    differ.
    """
    vectors = directions.vectors[directions.sites.index("resid_pre"), :, directions.positions.index(-1)]
    return normalise(torch.cat([vectors[1:], vectors[-1:]]))


def build_edit(
    parameters: Parameters, base: BaseModelRef, places: Sequence[Place], units: Float[Tensor, "layer d_model"]
) -> Edit:
    """One operation for each writer within its component's schedule.

    Args:
        units: the result of `directions_after`; a writer with a zero direction is not edited.
    """
    shared = (
        _interpolate(units, _number(parameters, "direction")) if parameters["scope"] == "global" else None
    )
    operations = []
    for component, layer, strength in _strengths(parameters, places):
        unit = units[layer] if shared is None else shared
        if strength and unit.any():
            operations.append(Operation(component, layer, unit[None].float(), torch.tensor([strength])))
    return Edit(base, tuple(operations))


def heaviest_layer(parameters: Parameters, places: Sequence[Place], n_layers: int) -> int:
    """The layer whose resid_pre holds the main direction: that after the layer with the largest sum
    of strengths, or the one nearest to the interpolated direction.
    """
    if parameters["scope"] == "global":
        after = round(_number(parameters, "direction"))
    else:
        total = dict.fromkeys(range(n_layers), 0.0)
        for _, layer, strength in _strengths(parameters, places):
            total[layer] += strength
        after = max(total, key=lambda layer: total[layer])
    return min(after + 1, n_layers - 1)


def _strengths(parameters: Parameters, places: Sequence[Place]) -> list[tuple[Component, int, float]]:
    result = []
    for component, layer in places:
        numbers = (
            _number(parameters, f"{component} {n}") for n in ("maximum", "position", "minimum", "distance")
        )
        strength = LayerWeightSchedule(*numbers).at(layer)
        if strength is not None:
            result.append((component, layer, strength))
    return result


def _interpolate(units: Float[Tensor, "layer d_model"], index: float) -> Vector:
    """The unit vector interpolated linearly between the directions of two neighbouring layers."""
    low = math.floor(index)
    return normalise(torch.lerp(units[low], units[min(low + 1, len(units) - 1)], index - low))


def _number(parameters: Parameters, name: str) -> float:
    return float(parameters[name])
