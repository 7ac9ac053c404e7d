"""Collect: one streaming pass over prompts, keeping moments of the residual stream instead of the
stream.

statistics = collect(chat, prompts, sites=["resid_pre"], positions=[-1])
statistics.mean        # site x layer x position x d_model, float64
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.errors import ActivationError, PromptError
from vectomy.core.progress import Progress, silent
from vectomy.core.types import SITES, Site
from vectomy.data.prompts import Prompt
from vectomy.hooks.capture import capture
from vectomy.models import (
    ChatModel,
    Example,
    TeacherForcedBatch,
    pack_examples,
    packs_exactly,
    shared_beginning,
)
from vectomy.search.activation_stats import ActivationStats, RunningStats

__all__ = ["collect"]


# Tokens of a pack: in longer ones attention, over all of a row, costs more than what is shared
# saves.
PACK = 640


@torch.inference_mode()
def collect(
    chat: ChatModel,
    prompts: Sequence[Prompt],
    *,
    sites: Sequence[Site] = SITES,
    positions: Sequence[int] = (-1,),
    covariance: bool = False,
    samples: bool = False,
    batch_tokens: int = 4096,
    packed: bool = False,
    progress: Progress = silent,
) -> ActivationStats:
    """Statistics of the stream at all layers over `prompts`; no logits, and no activations kept
    unless asked.

    The same for a model that is read block by block (`stream_model`); batches and kernels are the
    same ones.

    Args:
        positions: token positions counted from the end (-1 is the last token of the template).
        covariance: also the d_model x d_model covariance per site, layer and position.
        packed: let prompts share what they begin with (models/teacher_forcing.py), where the model
            allows it: the same up to rounding.
        samples: also every activation, float32 (prompt x site x layer x position x d_model).

    Raises:
        PromptError: no prompts, or one with fewer tokens than the positions ask for.
        ActivationError: NaN or infinite activations, with the site and layer.
    """
    tokens = chat.tokens(prompts)
    shortest = min(map(len, tokens), default=0)
    if shortest < max(-position for position in positions):
        raise PromptError(
            f"the shortest of {len(prompts)} prompts has {shortest} tokens; positions {list(positions)} need more"
        )
    arch = chat.architecture
    shape = (len(sites), arch.n_layers, len(positions), arch.d_model)
    packs = _packs(chat, tokens, max(-position for position in positions), batch_tokens) if packed else []
    batches: list[Any] = [*(packs or chat.batches(tokens, batch_tokens))]
    parts: dict[
        int, RunningStats
    ] = {}  # by first layer: of all layers, or of one each where the model comes block by block
    kept = torch.empty(len(prompts), *shape) if samples else None
    with (
        progress("collecting", len(prompts) * arch.n_layers, "layers of prompts") as update,
        chat.iter_layers(batches) as sweeps,
    ):
        for layers, passed in sweeps:
            part = parts.setdefault(
                layers.start, RunningStats(len(sites), len(layers), *shape[2:], covariance=covariance)
            )
            with capture(chat.model, sites, layers=layers, positions=None if packs else positions) as stream:
                for batch in passed:
                    held = torch.empty(len(batch.rows), len(sites), len(layers), *shape[2:])
                    for (site, layer), value in stream.items():
                        wanted = (
                            batch.ending(value, positions) if isinstance(batch, TeacherForcedBatch) else value
                        )
                        held[:, sites.index(site), layer - layers.start] = wanted.float().cpu()
                    stream.clear()
                    _check_finite(held, sites, layers)
                    part.update(held)
                    if kept is not None:
                        kept[batch.rows, :, layers.start : layers.stop] = held
                    update(len(batch.rows) * len(layers))
    moments = [parts[first] for first in sorted(parts)]
    return ActivationStats(
        tuple(sites),
        tuple(positions),
        moments[0].count,
        torch.cat([part.mean for part in moments], dim=1),
        torch.cat([part.scatter for part in moments if part.scatter is not None], dim=1) / moments[0].count
        if covariance
        else None,
        kept,
    )


def _packs(
    chat: ChatModel, tokens: Sequence[Sequence[int]], last: int, budget: int
) -> list[TeacherForcedBatch]:
    """The prompts in packs, where the model allows it and the `last` tokens are each prompt's own;
    else none.

    The order is that of `ChatModel.batches`: prompts alike in length beside each other.
    """
    if chat.stream is not None or shared_beginning(tokens) + last > min(map(len, tokens)):
        return []
    order = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row]), row))
    # An answer of one token, which is not run: where it would be predicted is the prompt's last
    # token.
    examples = [Example(row, tokens[row], [[0]]) for row in order]
    if len(examples) < 2 or not packs_exactly(chat, examples[:2]):
        return []
    return pack_examples(chat, examples, min(budget, PACK))


def _check_finite(
    held: Float[Tensor, "batch site layer position d_model"], sites: Sequence[Site], layers: range
) -> None:
    finite = held.isfinite().all(dim=-1).all(dim=-1).all(dim=0)
    if not finite.all():
        layer = int((~finite).any(dim=0).nonzero()[0])
        site = sites[int((~finite)[:, layer].nonzero()[0])]
        raise ActivationError(
            f"activations at {site} of layer {layers[layer]} hold NaN or infinite values; the weights are damaged, or the dtype is too "
            "narrow for this model (try --dtype float32 or bfloat16)"
        )
