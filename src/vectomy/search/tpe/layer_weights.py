"""An Edit from a dozen numbers: for each component a tent of strengths over the layers, and one
rule for directions.

    strength at layer l = maximum (1 - (1 - minimum) d / distance),  d = |l - position| <= distance

and none beyond. `minimum` is a share of `maximum`. The direction is the same everywhere (global:
interpolated between two layers) or each layer's own. This is the parametrisation of Heretic
(github.com/p-e-w/heretic), written anew from its description. Norm mode none, exactly: Heretic's
own default gives rows their lengths back, by an approximation of rank 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.linalg import normalise
from vectomy.core.types import COMPONENTS, Component, Vector
from vectomy.edits.edit import BaseModelRef, Edit, Operation
from vectomy.search.estimators import Directions

__all__ = [
    "SCOPES",
    "LayerWeightSchedule",
    "Parameters",
    "Place",
    "build_edit",
    "directions_behind",
    "heaviest_layer",
    "ranges",
]

Place = tuple[Component, int]
"""A writer of a block, by component and layer."""
Parameters = Mapping[str, float | str]
"""`scope`, and the numbers whose names and ranges `ranges` gives."""
SCOPES = ("global", "per layer")


@dataclass(frozen=True)
class LayerWeightSchedule:
    """Strengths over layers; `position` and `distance` in layers, `minimum` a share of `maximum`."""

    maximum: float
    position: float
    minimum: float
    distance: float

    def at(self, layer: int) -> float | None:
        """The strength at a layer, None outside."""
        away = abs(layer - self.position)
        return (
            None if away > self.distance else self.maximum * (1 - (1 - self.minimum) * away / self.distance)
        )


def ranges(places: Sequence[Place], n_layers: int) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each number, in an order that is always the same."""
    last = n_layers - 1
    found = {"direction": (0.4 * last, 0.9 * last)}
    for component in sorted({component for component, _ in places}, key=COMPONENTS.index):
        found[f"{component} maximum"] = (0.8, 1.5)
        found[f"{component} position"] = (0.6 * last, 1.0 * last)
        found[f"{component} minimum"] = (0.0, 1.0)
        found[f"{component} distance"] = (1.0, max(1.0, 0.6 * last))
    return found


def directions_behind(directions: Directions) -> Float[Tensor, "layer d_model"]:
    """The unit direction behind each layer at the last token: resid_pre of the next layer. Behind
    the last one nothing is collected; it takes its own resid_pre. Zero where the two sets do not
    differ.
    """
    found = directions.vectors[directions.sites.index("resid_pre"), :, directions.positions.index(-1)]
    return normalise(torch.cat([found[1:], found[-1:]]))


def build_edit(
    parameters: Parameters, base: BaseModelRef, places: Sequence[Place], units: Float[Tensor, "layer d_model"]
) -> Edit:
    """One operation for each writer under its component's tent.

    Args:
        units: directions as `directions_behind` gives them; a writer whose direction is zero is
            left alone.
    """
    shared = _between(units, _number(parameters, "direction")) if parameters["scope"] == "global" else None
    operations = []
    for component, layer, strength in _strengths(parameters, places):
        unit = units[layer] if shared is None else shared
        if strength and unit.any():
            operations.append(Operation(component, layer, unit[None].float(), torch.tensor([strength])))
    return Edit(base, tuple(operations))


def heaviest_layer(parameters: Parameters, places: Sequence[Place], n_layers: int) -> int:
    """The layer at whose resid_pre the direction lies that weighs most: that of the layer with the
    largest sum of strengths, or the nearest to the interpolated one.
    """
    if parameters["scope"] == "global":
        behind = round(_number(parameters, "direction"))
    else:
        total = dict.fromkeys(range(n_layers), 0.0)
        for _, layer, strength in _strengths(parameters, places):
            total[layer] += strength
        behind = max(total, key=lambda layer: total[layer])
    return min(behind + 1, n_layers - 1)


def _strengths(parameters: Parameters, places: Sequence[Place]) -> list[tuple[Component, int, float]]:
    found = []
    for component, layer in places:
        numbers = (
            _number(parameters, f"{component} {n}") for n in ("maximum", "position", "minimum", "distance")
        )
        strength = LayerWeightSchedule(*numbers).at(layer)
        if strength is not None:
            found.append((component, layer, strength))
    return found


def _between(units: Float[Tensor, "layer d_model"], index: float) -> Vector:
    """The unit vector on the straight line between the directions of two neighbouring layers."""
    low = math.floor(index)
    return normalise(torch.lerp(units[low], units[min(low + 1, len(units) - 1)], index - low))


def _number(parameters: Parameters, name: str) -> float:
    return float(parameters[name])
