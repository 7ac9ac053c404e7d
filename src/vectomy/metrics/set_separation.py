"""How well a direction tells the two prompt sets apart, layer by layer, and the sets in their
principal planes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.config import BatchTokens
from vectomy.core.linalg import normalise
from vectomy.core.results import LayerSeparation, PrincipalPlane, Separation
from vectomy.core.types import Site, Vector
from vectomy.data.prompts import Prompt
from vectomy.hooks.capture import capture
from vectomy.metrics.pca import principal_components
from vectomy.models import ChatModel

__all__ = ["PLANES", "separation"]

PLANES = 12
"""Layers whose principal planes are stored, for the page."""


@torch.inference_mode()
def separation(
    chat: ChatModel,
    direction: Vector,
    site: Site,
    layer: int,
    position: int,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    batch_tokens: BatchTokens,
) -> Separation:
    """How well a direction separates the two sets: means, standard deviations and AUROC of the
    projections at every layer, and the principal components at `layer` and at PLANES layers in all.
    """
    unit, n_layers = normalise(direction.float()), chat.architecture.n_layers
    shown = _spread_layers(n_layers, layer)
    sides, states = [], []
    for prompts in (positive, negative):
        projections = torch.empty(n_layers, len(prompts))
        here = {index: torch.empty(len(prompts), len(unit)) for index in shown}
        for batch in chat.batches(chat.tokens(prompts), batch_tokens):
            with capture(chat.model, [site], positions=[position]) as stream:
                chat.hidden(batch)
            for (_, index), value in stream.items():
                projections[index, batch.rows] = (value[:, 0].float() @ unit.to(value.device)).cpu()
                if index in here:
                    here[index][batch.rows] = value[:, 0].float().cpu()
        sides.append(projections)
        states.append(here)
    yes, no = sides
    layers = tuple(
        LayerSeparation(
            layer=index,
            positive_mean=float(yes[index].mean()),
            negative_mean=float(no[index].mean()),
            positive_std=float(yes[index].std()),
            negative_std=float(no[index].std()),
            auroc=_auroc(yes[index], no[index]),
        )
        for index in range(len(yes))
    )
    components = {index: principal_components(states[0][index], states[1][index], unit) for index in shown}
    planes = {
        index: PrincipalPlane.from_json(value) for index, value in components.items() if value is not None
    }
    return Separation(
        site=site,
        layer=layer,
        position=position,
        layers=layers,
        positive=tuple(yes[layer].tolist()),
        negative=tuple(no[layer].tolist()),
        pca=planes.get(layer),
        planes=tuple(_round_places(plane, index) for index, plane in planes.items()),
    )


def _spread_layers(n_layers: int, chosen: int) -> list[int]:
    """At most PLANES layers, the chosen one among them, the others evenly from first to last."""
    if n_layers <= PLANES:
        return list(range(n_layers))
    others = [index for index in range(n_layers) if index != chosen]
    places = torch.linspace(0, len(others) - 1, PLANES - 1).round().int().tolist()
    return sorted({chosen, *(others[place] for place in places)})


def _round_places(plane: PrincipalPlane, layer: int) -> PrincipalPlane:
    """Coordinates with four significant digits, which is finer than a picture shows."""

    def rounded(places: Sequence[Sequence[float | None]]) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(float(f"{value:.4g}") for value in place if value is not None) for place in places)

    sides = {"positive": rounded(plane.positive), "negative": rounded(plane.negative)}
    return plane.model_copy(update={**sides, "layer": layer})


def _auroc(positive: Float[Tensor, p], negative: Float[Tensor, n]) -> float:
    """Share of pairs in which the positive value is larger; ties count half."""
    difference = positive[:, None] - negative[None]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())
