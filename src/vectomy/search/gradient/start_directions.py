"""Where the gradient search starts: a direction that is given, or the best of some closed-form
directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core import linalg
from vectomy.core.errors import SelectionError
from vectomy.core.json_value import JsonObject
from vectomy.edits.edit import Edit
from vectomy.search.estimators import direction_from
from vectomy.search.gradient.edit_objective import EditObjective
from vectomy.search.gradient.train_passes import share_left
from vectomy.search.recipe import RecipeInput

__all__ = ["SCREENED_LAYERS", "SCREENED_PROMPTS", "init_parameters", "read_directions", "screen_directions"]

# Every strength starts at this value.
FIRST_STRENGTH = 0.3
# Candidate start directions: SCREENED_LAYERS layers, evenly spaced over this fraction of the depth.
SCREENED = (0.45, 0.7)
SCREENED_LAYERS = 6
# A start direction is accepted if ablating it leaves at most LEFT of the behaviour on
# SCREENED_PROMPTS fit prompts. If every candidate leaves more than REACHED, the search turns to all
# layers.
SCREENED_PROMPTS = 16
LEFT = 0.125
REACHED = 0.5
# Losses within this factor of the least are as good: rounding alone decides between them. From the
# deepest of them the search ends at half the KL (docs/log/gradient-search.md).
TIED = 1.25


def read_directions(task: RecipeInput, source: str) -> Float[Tensor, "k d_model"]:
    """The directions of --direction, normalised, instead of the screened ones.

    Raises:
        SelectionError: the rank or the width does not fit, or a direction is zero or not finite.
    """
    width, rank = task.chat.architecture.d_model, task.config.selection.rank
    given = direction_from(source, width).float()
    rows = given[None] if given.ndim == 1 else given
    if rows.shape != (rank, width) or not bool(rows.isfinite().all() & rows.any(dim=-1).all()):
        raise SelectionError(
            f"--direction {source} holds numbers of shape {list(given.shape)}; a search of --rank {rank} on "
            f"this model takes {rank} "
            f"finite direction(s) of width {width}, none of them zero"
        )
    return linalg.normalise(rows)


def screen_directions(objective: EditObjective) -> JsonObject:
    """Fully ablate each candidate start direction, order them by loss (`order_starts`), and
    generate in that order.

    The start layer is chosen by generating, not by loss alone: without its usual opening, the model
    may still show the behaviour in other words. A model read block by block is judged by the loss.

    Returns:
        A JSON record: the best `layer`, all screened `layers`, the share of the behaviour `left` by
        layer, whether any candidate `reached` the behaviour, and the losses.

    Raises:
        SelectionError: the two prompt sets have the same mean at every screened layer.
    """
    task = objective.task
    directions = _list_candidates(task)
    if not directions:
        raise SelectionError(
            "the two prompt sets have the same mean at every layer, so there is no direction to start from; "
            "give prompt sets that differ, or a start with --direction"
        )
    layers = list(directions)
    base, losses = objective.measure_ablations(torch.stack(list(directions.values())))
    both = [sum(pair) for pair in zip(*losses.values(), strict=True)]
    order = order_starts(both)
    left: dict[int, float] = {}
    for index in order if task.judge is not None and not task.teacher_forced else ():
        layer = layers[index]
        edit = Edit.from_directions(directions[layer], task.base, objective.writers)
        left[layer] = share_left(task, edit, SCREENED_PROMPTS)
        if left[layer] <= LEFT:
            break
    least = min(left.values()) if left else min(losses["change"]) / base
    best = min(left, key=lambda layer: left[layer]) if left else layers[order[0]]
    return {
        "layer": best,
        "layers": layers,
        "left": left,
        "reached": least <= REACHED,
        "base": base,
        **losses,
    }


def order_starts(losses: Sequence[float]) -> list[int]:
    """Indices of the candidates, which are listed by rising layer, in the order of trying."""
    most = TIED * min(losses)
    return sorted(range(len(losses)), key=lambda index: (max(losses[index], most), -index))


def init_parameters(
    objective: EditObjective, layer: int, given: Float[Tensor, "k d_model"] | None
) -> dict[str, Tensor]:
    """The parameters at the start of the search.

    Args:
        layer: the layer of the screened direction; ignored if directions are `given`.
    """
    task = objective.task
    limits, n = task.config.selection, task.chat.architecture.n_layers
    strengths = torch.full((len(objective.writers), limits.rank), FIRST_STRENGTH)
    if given is not None:
        vectors = given.expand(max(objective.groups) + 1, -1, -1).clone()
        return {"strengths": strengths, "vectors": vectors}
    starts = range(objective.start, n) if task.config.per_layer else [layer]
    # At the first layer the two sets may still have the same mean.
    own = torch.stack(
        [vector if (vector := _direction(task, at)).any() else _direction(task, layer) for at in starts]
    )
    # Further directions are the closed-form ones of the next layers.
    near = [_direction(task, min(n - 1, layer + 2 * more)) for more in range(1, limits.rank)]
    vectors = torch.stack([own, *(row.expand_as(own) for row in near)], dim=1)
    return {"strengths": strengths, "vectors": vectors}


def _list_candidates(task: RecipeInput) -> dict[int, Float[Tensor, " d_model"]]:
    """Candidate directions by layer, without those that are zero."""
    n = task.chat.architecture.n_layers
    low, high = (round(share * n) for share in SCREENED)
    layers = sorted(
        {round(low + (high - low) * index / (SCREENED_LAYERS - 1)) for index in range(SCREENED_LAYERS)}
    )
    directions = {layer: _direction(task, layer) for layer in layers}
    return {layer: vector for layer, vector in directions.items() if bool(vector.any())}


def _direction(task: RecipeInput, layer: int) -> Float[Tensor, " d_model"]:
    return linalg.normalise(task.directions.at("resid_pre", layer, -1).float())
