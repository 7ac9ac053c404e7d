"""Collects statistics of the residual stream in one pass over prompts, without storing the stream.

statistics = collect(chat, prompts, sites=["resid_pre"], positions=[-1])
statistics.mean        # site x layer x position x d_model, float64
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.arguments import list_of
from vectomy.core.config import BatchTokens
from vectomy.core.errors import ActivationError, PromptError, UsageError
from vectomy.core.progress import Progress, automatic
from vectomy.core.ranks import current_ranks
from vectomy.core.types import SITES, Point, Site, list_sites
from vectomy.data.prompts import Prompts, as_prompts
from vectomy.hooks.capture import capture
from vectomy.models import (
    ChatModel,
    Example,
    TeacherForcedBatch,
    pack_examples,
    packs_exactly,
    require_chat,
    shared_beginning,
)
from vectomy.models.head import logits_of
from vectomy.search.activation_stats import ActivationStats, RunningStats

__all__ = ["PACK", "collect"]

# Most tokens of a pack: in longer packs, attention over the whole row costs more than sharing
# saves.
PACK = 640


@torch.inference_mode()
def collect(
    chat: ChatModel,
    prompts: Prompts,
    *,
    sites: Site | Sequence[Site] = SITES,
    positions: int | Sequence[int] = (-1,),
    covariance: bool = False,
    samples: bool = False,
    batch_tokens: BatchTokens = "auto",
    packed: bool = False,
    progress: Progress = automatic,
) -> ActivationStats:
    """Statistics of the residual stream at all layers over `prompts`: means, and more on request.

    No logits are computed. A model read block by block (`load_layerwise`) gives the same numbers.
    The batches are shared by the ranks, whose statistics are merged in the order of the batches: to
    the same bits as those of one process, with a covariance to rounding (float64).

    Args:
        chat: a model of `load_model`, `load_layerwise` or `wrap`.
        prompts: at least one, as texts, `Prompt` values or lists of messages; the chat template is
            applied.
        sites: places in each layer (`vectomy.capture` has the table), all of one width; the stream
            unless given. At `head_z` heads lie side by side; `logits` are one layer of their own.
        positions: token positions counted from the end (-1 is the last token of the template).
        covariance: also the d_model x d_model covariance per site, layer and position.
        samples: also every activation, float32 (prompt x site x layer x position x d_model).
        packed: let prompts share their beginning (models/teacher_forcing.py), if the model allows
            it; results are the same up to rounding.

    Raises:
        UsageError: no `ChatModel`, or a site or position that there is not.
        PromptError: no prompts, or one with fewer tokens than the positions need.
        ActivationError: NaN or infinite activations; the message names the site and layer.
    """
    require_chat(chat)
    sites = list_sites(sites)
    positions = list_of(int, positions, "a position", "give numbers from the end, such as -1")
    if not sites or not positions or max(positions, default=0) >= 0:
        raise UsageError(
            f"sites {list(sites)} and positions {positions} name no place; give at least one site, and "
            "positions counted from the end, such as -1"
        )
    prompts = as_prompts(prompts)
    if not prompts:
        raise PromptError("there are no prompts; give a list such as ['How do I bake bread?']")
    tokens = chat.tokens(prompts)
    shortest = min(map(len, tokens), default=0)
    if shortest < max(-position for position in positions):
        raise PromptError(
            f"the shortest of {len(prompts)} prompts has {shortest} tokens, but positions {list(positions)} "
            "need more; give longer prompts"
        )
    if "logits" in sites:
        return _collect_logits(chat, tokens, sites, positions, covariance, samples, batch_tokens, progress)
    arch = chat.architecture
    packs = (
        _pack_prompts(chat, tokens, max(-position for position in positions), batch_tokens) if packed else []
    )
    ranks = current_ranks()
    share: list[tuple[int, Any]] = ranks.share(enumerate(packs or chat.batches(tokens, batch_tokens)))
    batches = [batch for _, batch in share]
    # By the first layer: one part for all layers, or one per layer if the model is read block by
    # block; and by batch, or by rank where one part takes much memory.
    parts: dict[tuple[int, int], RunningStats] = {}
    apart = ranks.count > 1 and not covariance
    places = {id(batch): place if apart else ranks.rank for place, batch in share}
    kept: dict[tuple[int, int], Tensor] = {}
    with (
        progress("collecting", len(prompts) * arch.n_layers, "layers of prompts") as update,
        chat.iter_layers(batches) as steps,
    ):
        for layers, finished in steps:
            with capture(chat.model, sites, layers=layers, positions=None if packs else positions) as stream:
                for batch in finished:
                    values = _gather(stream, batch, sites, layers, positions)
                    stream.clear()
                    _check_finite(values, sites, layers)
                    key = layers.start, places[id(batch)]
                    if key not in parts:
                        parts[key] = RunningStats(*values.shape[1:], covariance=covariance)
                    parts[key].update(values)
                    if samples:
                        kept |= {
                            (row, layers.start): own for row, own in zip(batch.rows, values, strict=True)
                        }
                    update(len(batch.rows) * len(layers))
        moments = _merge_stats(ranks.merge(parts))
        update((len(prompts) - sum(len(batch.rows) for batch in batches)) * arch.n_layers)
    return ActivationStats(
        tuple(sites),
        tuple(positions),
        moments[0].count,
        torch.cat([part.mean for part in moments], dim=1),
        torch.cat([part.scatter for part in moments if part.scatter is not None], dim=1) / moments[0].count
        if covariance
        else None,
        _join_samples(ranks.merge(kept), len(prompts)) if samples else None,
    )


def _gather(
    stream: Mapping[Point, Tensor], batch: Any, sites: Sequence[Site], layers: range, positions: Sequence[int]
) -> Float[Tensor, "batch site layer position width"]:
    """The values of one pass, float32 on the CPU. Heads lie side by side.

    Raises:
        UsageError: the values of two sites are not of one width.
    """
    ending = {
        point: batch.ending(value.flatten(2), positions)
        if isinstance(batch, TeacherForcedBatch)
        else value.flatten(2)
        for point, value in stream.items()
    }
    widths = {site: value.shape[-1] for (site, _), value in ending.items()}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{site} {width}" for site, width in widths.items())
        raise UsageError(f"the sites have different widths ({told}); collect them one by one")
    first = ending[sites[0], layers.start]
    # On the model's device, so that one transfer brings them all.
    gathered = torch.empty(
        len(batch.rows), len(sites), len(layers), *first.shape[1:], device=first.device, dtype=torch.float32
    )
    for (site, layer), value in ending.items():
        gathered[:, sites.index(site), layer - layers.start] = value.float()
    return gathered.cpu()


def _collect_logits(
    chat: ChatModel,
    tokens: Sequence[Sequence[int]],
    sites: Sequence[Site],
    positions: Sequence[int],
    covariance: bool,
    samples: bool,
    batch_tokens: BatchTokens,
    progress: Progress,
) -> ActivationStats:
    """Statistics of the model's logits: one site, and one layer."""
    if list(sites) != ["logits"]:
        raise UsageError(f"logits have another width than {', '.join(sites[:3])}; collect them apart")
    ranks = current_ranks()
    parts: dict[int, RunningStats] = {}
    kept: dict[tuple[int, int], Tensor] = {}
    with progress("collecting", len(tokens), "prompts") as update:
        for place, batch in ranks.share(enumerate(chat.batches(tokens, batch_tokens))):
            logits = logits_of(chat.model, chat.hidden(batch)[:, list(positions)])
            values = logits.float().cpu()[:, None, None]
            _check_finite(values, sites, range(1))
            parts[place] = RunningStats(*values.shape[1:], covariance=covariance)
            parts[place].update(values)
            if samples:
                kept |= {(row, 0): own for row, own in zip(batch.rows, values, strict=True)}
            update(len(batch.rows))
    (total,) = _merge_stats({(0, place): part for place, part in ranks.merge(parts).items()})
    return ActivationStats(
        tuple(sites),
        tuple(positions),
        total.count,
        total.mean,
        None if total.scatter is None else total.scatter / total.count,
        _join_samples(ranks.merge(kept), len(tokens)) if samples else None,
    )


def _merge_stats(parts: Mapping[tuple[int, int], RunningStats]) -> list[RunningStats]:
    """The statistics by first layer, in the order of the layers.

    Args:
        parts: by first layer, and in the order in which they are merged.
    """
    result: dict[int, RunningStats] = {}
    for layer, place in sorted(parts):
        part = parts[layer, place]
        if layer in result:
            result[layer].merge(part)
        else:
            result[layer] = part
    return list(result.values())


def _join_samples(
    values: Mapping[tuple[int, int], Float[Tensor, "site layer position d_model"]], count: int
) -> Float[Tensor, "prompt site n_layers position d_model"]:
    """Args: `values` by prompt and first layer, and the `count` of prompts."""
    layers = sorted({layer for _, layer in values})
    return torch.stack([torch.cat([values[row, layer] for layer in layers], dim=1) for row in range(count)])


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
    if len(examples) < 2 or not packs_exactly(chat, examples):
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
