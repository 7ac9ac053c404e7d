"""Collects statistics of the residual stream in one pass over prompts, without storing the stream.

statistics = collect(chat, prompts, sites=["resid_pre"], positions=[-1])
statistics.mean        # site x layer x position x d_model, float64
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.config import BatchTokens
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

# Most tokens of a pack: in longer packs, attention over the whole row costs more than sharing
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
    batch_tokens: BatchTokens = "auto",
    packed: bool = False,
    progress: Progress = silent,
) -> ActivationStats:
    """Statistics of the residual stream at all layers over `prompts`: means, and more on request.

    No logits are computed. A model read block by block (`load_layerwise`) gives the same numbers.

    Args:
        chat: a model of `load_model` or `load_layerwise`.
        prompts: at least one; the chat template is applied.
        sites: points of each layer: before the block, between attention and MLP, after it.
        positions: token positions counted from the end (-1 is the last token of the template).
        covariance: also the d_model x d_model covariance per site, layer and position.
        samples: also every activation, float32 (prompt x site x layer x position x d_model).
        packed: let prompts share their beginning (models/teacher_forcing.py), if the model allows
            it; results are the same up to rounding.

    Raises:
        PromptError: no prompts, or one with fewer tokens than the positions need.
        ActivationError: NaN or infinite activations; the message names the site and layer.
    """
    tokens = chat.tokens(prompts)
    shortest = min(map(len, tokens), default=0)
    if shortest < max(-position for position in positions):
        raise PromptError(
            f"the shortest of {len(prompts)} prompts has {shortest} tokens, but positions {list(positions)} "
            "need more; give longer prompts"
        )
    arch = chat.architecture
    shape = (len(sites), arch.n_layers, len(positions), arch.d_model)
    packs = (
        _pack_prompts(chat, tokens, max(-position for position in positions), batch_tokens) if packed else []
    )
    batches: list[Any] = [*(packs or chat.batches(tokens, batch_tokens))]
    # By first layer: one part for all layers, or one per layer if the model is read block by block.
    parts: dict[int, RunningStats] = {}
    kept = torch.empty(len(prompts), *shape) if samples else None
    with (
        progress("collecting", len(prompts) * arch.n_layers, "layers of prompts") as update,
        chat.iter_layers(batches) as steps,
    ):
        for layers, finished in steps:
            part = parts.setdefault(
                layers.start, RunningStats(len(sites), len(layers), *shape[2:], covariance=covariance)
            )
            with capture(chat.model, sites, layers=layers, positions=None if packs else positions) as stream:
                for batch in finished:
                    # On the model's device, so that one transfer brings them all.
                    gathered = torch.empty(
                        len(batch.rows), len(sites), len(layers), *shape[2:], device=chat.device
                    )
                    for (site, layer), value in stream.items():
                        wanted = (
                            batch.ending(value, positions) if isinstance(batch, TeacherForcedBatch) else value
                        )
                        gathered[:, sites.index(site), layer - layers.start] = wanted.float()
                    stream.clear()
                    values = gathered.cpu()
                    _check_finite(values, sites, layers)
                    part.update(values)
                    if kept is not None:
                        kept[batch.rows, :, layers.start : layers.stop] = values
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


def _pack_prompts(
    chat: ChatModel, tokens: Sequence[Sequence[int]], last: int, batch_tokens: BatchTokens
) -> list[TeacherForcedBatch]:
    """The prompts in packs, longest first, as in `ChatModel.batches`.

    Empty if the model does not allow packs, or if the last `last` tokens of the shortest prompt
    belong to the shared beginning.
    """
    if chat.stream is not None or shared_beginning(tokens) + last > min(map(len, tokens)):
        return []
    order = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row]), row))
    # An answer of one token is not run; the place that predicts it is the prompt's last token.
    examples = [Example(row, tokens[row], [[0]]) for row in order]
    if len(examples) < 2 or not packs_exactly(chat, examples[:2]):
        return []
    return pack_examples(chat, examples, batch_tokens, most=PACK)


def _check_finite(
    values: Float[Tensor, "batch site layer position d_model"], sites: Sequence[Site], layers: range
) -> None:
    finite = values.isfinite().all(dim=-1).all(dim=-1).all(dim=0)
    if not finite.all():
        layer = int((~finite).any(dim=0).nonzero()[0])
        site = sites[int((~finite)[:, layer].nonzero()[0])]
        raise ActivationError(
            f"activations at {site} of layer {layers[layer]} contain NaN or infinite values; the weights "
            "are damaged, or the dtype is too "
            "narrow for this model (try --dtype float32 or bfloat16)"
        )
