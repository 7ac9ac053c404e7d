"""Collect: one streaming pass over prompts, keeping moments of the residual stream instead of the stream.

statistics = collect(chat, prompts, sites=["resid_pre"], positions=[-1])
statistics.mean        # site x layer x position x d_model, float64
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.capture import capture
from vectomy.errors import ActivationError, PromptError
from vectomy.model import ChatModel
from vectomy.moments import Activations, Moments
from vectomy.progress import Progress, silent
from vectomy.prompts import Prompt
from vectomy.types import SITES, Point, Site

__all__ = ["collect"]


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
    progress: Progress = silent,
) -> Activations:
    """Statistics of the stream at all layers over `prompts`; no logits, and no activations kept unless asked.

    Args:
        positions: token positions counted from the end (-1 is the last token of the template).
        covariance: also the d_model x d_model covariance per site, layer and position.
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
    place = {site: index for index, site in enumerate(sites)}
    shape = (len(sites), arch.n_layers, len(positions), arch.d_model)
    moments = Moments(*shape, covariance=covariance)
    kept = torch.empty(len(prompts), *shape) if samples else None
    with progress("collecting", len(prompts), "prompts") as advance:
        for batch in chat.batches(tokens, batch_tokens):
            held = torch.empty(len(batch.rows), *shape)

            def take(point: Point, value: Tensor, held: Tensor = held) -> None:
                held[:, place[point[0]], point[1]] = value.float().cpu()

            with capture(chat.model, sites, positions=positions, consume=take):
                chat.hidden(batch)
            _check_finite(held, sites)
            moments.update(held)
            if kept is not None:
                kept[batch.rows] = held
            advance(len(batch.rows))
    spread = None if moments.scatter is None else moments.scatter / moments.count
    return Activations(tuple(sites), tuple(positions), moments.count, moments.mean, spread, kept)


def _check_finite(held: Float[Tensor, "batch site layer position d_model"], sites: Sequence[Site]) -> None:
    finite = held.isfinite().all(dim=-1).all(dim=-1).all(dim=0)
    if not finite.all():
        layer = int((~finite).any(dim=0).nonzero()[0])
        site = sites[int((~finite)[:, layer].nonzero()[0])]
        raise ActivationError(
            f"activations at {site} of layer {layer} hold NaN or infinite values; the weights are damaged, or the dtype is too "
            "narrow for this model (try --dtype float32 or bfloat16)"
        )
