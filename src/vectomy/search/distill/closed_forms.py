"""The forms of an edit that induces or removes a trait: in closed form, or as parameters to learn.

v is the difference of the mean streams of the two contexts at a layer (positive - negative, after
the block, over the answers' tokens), r its unit vector, and c the strength:

    bias        + c v (induce) or - c v (remove) at the layer's MLP: a bias of its down projection
    set-point   r is removed from every writer, and the wanted r . x is added once, at the layer.
                From there on the stream has that value at every layer and token (affine concept
                editing, arXiv 2411.09003, as weights)
    amplify     every writer's part along r times 1 + c (induce) or 1 - c (remove)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Writer
from vectomy.core.errors import SelectionError
from vectomy.core.linalg import normalise
from vectomy.data.trait_file import Form
from vectomy.data.trait_file import Operation as What
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.operation import Operation
from vectomy.hooks.writer_outputs import is_hookable
from vectomy.search.distill.distillation import Learnable

__all__ = ["Means", "closed_form", "learnables", "writers_for_additions"]

Means = tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer d_model"]]
"""The mean streams of the positive context and of the negative one, after each block."""

# Vectors are learned between these shares of the depth: earlier blocks carry little of the meaning,
# the last ones choose words.
START, END = 0.17, 0.9
FIRST_STRENGTH = 0.1
# The writer that takes an added vector is the first of these that a layer has. It bakes into a bias
# where the architecture can have one, else the edit acts by hooks alone.
TAKERS = ("mlp", "shared_experts", "attention", "linear_attention", "ssm", "conv")


def writers_for_additions(writers: Sequence[Writer]) -> dict[int, Writer]:
    """By layer, the writer to which a vector is added.

    Raises:
        SelectionError: norms follow all writers of the model, so that none takes one.
    """
    found: dict[int, Writer] = {}
    for component in TAKERS:
        for writer in writers:
            if (
                writer.component == component
                and writer.layer is not None
                and not writer.norms
                and is_hookable(writer)
            ):
                found.setdefault(writer.layer, writer)
    if not found:
        raise SelectionError(
            "no writer of this model takes an added vector, because norms lie between all of them and the "
            "stream; use --form amplify"
        )
    return found


def closed_form(
    form: Form,
    what: What,
    base: BaseModelRef,
    writers: Sequence[Writer],
    layer: int,
    means: Means,
    strength: float,
) -> Edit:
    """The edit of a form at a layer, from the mean streams of (positive, negative).

    Raises:
        SelectionError: the model has no writer there that the form needs.
    """
    positive, negative = (side[layer] for side in means)
    vector = positive - negative
    sign = 1.0 if what == "induce" else -1.0
    if form == "amplify":
        return Edit.from_directions(vector, base, writers, -sign * strength)
    taker = writers_for_additions(writers).get(layer)
    if taker is None:
        raise SelectionError(f"layer {layer} has no writer that takes an added vector")
    if form == "bias":
        return Edit(base, (_adding(taker, sign * strength * vector),))
    unit = normalise(vector)
    source, target = (negative, positive) if what == "induce" else (positive, negative)
    wanted = float(source @ unit) + strength * float((target - source) @ unit)
    edit = Edit.from_directions(vector, base, writers)
    operations = [
        replace(op, addition=wanted * unit) if (op.component, op.layer) == (taker.component, layer) else op
        for op in edit.operations
    ]
    return Edit(base, tuple(operations))


def _adding(writer: Writer, vector: Float[Tensor, " d_model"]) -> Operation:
    return Operation(
        writer.component, writer.layer, torch.eye(1, len(vector)), torch.zeros(1), addition=vector
    )


def learnables(what: What, writers: Sequence[Writer], means: Means) -> list[Learnable]:
    """The parameters to learn: a vector for one writer per layer; to remove a trait, also a
    direction per layer, which is removed from its writers.
    """
    layers, width = means[0].shape
    inside = [
        w
        for w in writers
        if w.layer is not None and START * layers <= w.layer < END * layers and is_hookable(w)
    ]
    takers = {id(writer) for writer in writers_for_additions(inside).values()}
    directions = {
        layer: normalise(means[0][layer] - means[1][layer]).requires_grad_() for layer in range(layers)
    }
    found = []
    for writer in inside:
        assert writer.layer is not None
        removes = what == "remove" and not writer.norms
        if not removes and id(writer) not in takers:
            continue
        found.append(
            Learnable(
                writer,
                # The size of a coordinate of the stream there: a rate then means the same at every
                # layer and in every model.
                scale=float(means[1][writer.layer].norm()) / width**0.5,
                addition=torch.zeros(width, requires_grad=True) if id(writer) in takers else None,
                strength=torch.full((1,), FIRST_STRENGTH, requires_grad=True) if removes else None,
                direction=directions[writer.layer] if removes else None,
            )
        )
    return found
