"""Recipe `cosmic`: choose a direction by what it does to activations; no token and no answer is
looked at.

    induced   cos(negative prompts with the direction added at its own layer, positive prompts)
    removed   cos(positive prompts with the direction ablated everywhere, negative prompts)

score = induced + removed, at most 2. A set is its mean activation behind the compared layers
(resid_post) at the template's tokens, laid end to end as one vector; the compared layers are the
tenth at which the two sets are least alike. The best score is taken whose KL(base || ablated) on
negative prompts is below `limits.kl_threshold`.

Source: Siu et al., "COSMIC: Generalized Refusal Direction Identification in LLM Activations", arXiv
2506.00085. The authors' code compares the last token alone and averages over the layers too, where
layers with long activations outweigh the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Writer
from vectomy.core.config import Selection
from vectomy.core.errors import SelectionError
from vectomy.core.linalg import cosine
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import Journal
from vectomy.core.types import Vector
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import add, intervene
from vectomy.metrics.logits import kl_divergence
from vectomy.models import ChatModel
from vectomy.search.arditi_rule import rejection
from vectomy.search.estimators import Directions

__all__ = ["least_alike", "select_cosmic"]

# Share of the layers at which the sets are compared.
COMPARED = 0.1


@torch.inference_mode()
def select_cosmic(
    chat: ChatModel,
    directions: Directions,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    limits: Selection,
    *,
    writers: Sequence[Writer] | None = None,
    journal: Journal,
    batch_tokens: int = 4096,
    progress: Progress = silent,
) -> tuple[dict[str, Any], Vector]:
    """Score the directions at resid_pre below `limits.layer_fraction` of the depth on the search
    prompts, choose one.

    KL is measured in the order of the score until one passes; with `limits.complete` for all. Where
    none passes, the best score is taken with a note. Directions are ablated on `writers`, on all of
    them unless given.

    Returns:
        (scores as scores.json has them, the chosen vector with its own length).

    Raises:
        SelectionError: no direction can be scored, or with `limits.strict` none passes the KL
            filter.
    """
    scorer = _CosmicScorer(chat, directions.positions, positive, negative, writers, batch_tokens)
    rows = _candidates(chat, directions, limits)
    considered = [row for row in rows if row["rejected"] is None]
    with progress("scoring directions", len(considered), "directions") as update:
        for row in considered:
            vector = directions.at("resid_pre", row["layer"], row["position"])
            row |= journal.get_or_compute(
                f"{row['layer']} {row['position']} cosines", partial(scorer.cosines, vector, row["layer"])
            )
            row["score"] = row["induced"] + row["removed"]
            if math.isnan(row["score"]):
                row["rejected"] = "the score is NaN"
            update(1)
    scored = sorted((row for row in considered if row["rejected"] is None), key=lambda row: -row["score"])
    if not scored:
        raise SelectionError(
            f"none of {len(rows)} directions can be scored: the two sets do not differ at the template's tokens of any layer below "
            f"{limits.layer_fraction:g} of the depth; give other prompts, or raise --layer-fraction"
        )
    for row in scored:
        vector = directions.at("resid_pre", row["layer"], row["position"])
        row["kl_div_score"] = journal.get_or_compute(
            f"{row['layer']} {row['position']} kl", partial(scorer.kl, vector)
        )
        row["rejected"] = rejection(row, chat.architecture.n_layers, limits)
        if row["rejected"] is None and not limits.complete:
            break
    chosen, note = _choose(scored, limits)
    scores = {
        "recipe": "cosmic",
        "candidates": rows,
        "chosen": {key: chosen[key] for key in ("site", "layer", "position", "token")},
        "note": note,
        "compared_layers": scorer.compared,
        "thresholds": limits.model_dump(include={"kl_threshold", "layer_fraction"}),
    }
    return scores, directions.at("resid_pre", chosen["layer"], chosen["position"])


def _choose(scored: Sequence[dict[str, Any]], limits: Selection) -> tuple[dict[str, Any], str | None]:
    """The best that passes, of candidates in the order of their scores; else the best, and a
    sentence that says so.
    """
    passing = next((row for row in scored if row["rejected"] is None), None)
    if passing is not None:
        return passing, None
    if limits.strict:
        raise SelectionError(
            f"none of {len(scored)} directions passes the filter KL < {limits.kl_threshold:g}; loosen --kl-threshold, or leave "
            "--strict away to take the best score all the same"
        )
    best = scored[0]
    return best, (
        f"no direction passes the filter KL < {limits.kl_threshold:g}; taken is the one of the best score "
        f"({best['score']:.3g}, KL {best['kl_div_score']:.3g})"
    )


def least_alike(
    one: Float[Tensor, "layer position d_model"], other: Float[Tensor, "layer position d_model"]
) -> list[int]:
    """The tenth of the layers, at least one, at which the two means have the lowest cosine; in the
    order of the layers.
    """
    alike = cosine(one.flatten(1), other.flatten(1))
    count = max(1, round(COMPARED * len(alike)))
    return sorted(alike.argsort(stable=True)[:count].tolist())


def _candidates(chat: ChatModel, directions: Directions, limits: Selection) -> list[dict[str, Any]]:
    """A row per layer and position; out at once where it lies too deep, or where the two sets have
    the same mean.
    """
    ending, n_layers = chat.post_instruction(), chat.architecture.n_layers
    rows = []
    for layer in range(n_layers):
        for position in directions.positions:
            row: dict[str, Any] = {"site": "resid_pre", "layer": layer, "position": position}
            same = not bool(directions.at("resid_pre", layer, position).any())
            row["token"] = chat.tokenizer.decode([ending[position]])
            row |= dict.fromkeys(("score", "induced", "removed", "kl_div_score"))
            out = "both sets have the same mean there" if same else rejection(row, n_layers, limits)
            rows.append({**row, "rejected": out})
    return rows


class _CosmicScorer:
    """Means of the two sets, untouched and under a direction."""

    def __init__(
        self,
        chat: ChatModel,
        positions: Sequence[int],
        positive: Sequence[Prompt],
        negative: Sequence[Prompt],
        writers: Sequence[Writer] | None,
        batch_tokens: int,
    ) -> None:
        self.chat, self.positions, self.batch_tokens = chat, positions, batch_tokens
        self.writers = chat.architecture.writers if writers is None else writers
        self.positive, self.negative = chat.tokens(positive), chat.tokens(negative)
        self.model_base = BaseModelRef.of(chat.checkpoint)
        every = list(range(chat.architecture.n_layers))
        sides = [self._mean(tokens, every, nullcontext()) for tokens in (self.positive, self.negative)]
        self.compared = least_alike(*sides)
        self.mean_positive, self.mean_negative = (side[self.compared].flatten() for side in sides)

    def cosines(self, vector: Vector, layer: int) -> dict[str, float]:
        steered = intervene(self.chat.model, {("resid_pre", layer): add(vector)})
        induced = self._mean(self.negative, self.compared, steered).flatten()
        removed = self._mean(self.positive, self.compared, self._ablated(vector)).flatten()
        return {
            "induced": float(cosine(induced, self.mean_positive)),
            "removed": float(cosine(removed, self.mean_negative)),
        }

    def kl(self, vector: Vector) -> float:
        """KL(base || ablated) of the first token on the negative prompts, in nats."""
        with self._ablated(vector):
            now = self.chat.next_token_log_probs(self.negative, self.batch_tokens)
        return float(kl_divergence(self.base, now).mean())

    @cached_property
    def base(self) -> Float[Tensor, "prompt vocab"]:
        return self.chat.next_token_log_probs(self.negative, self.batch_tokens)

    def _ablated(self, vector: Vector) -> AbstractContextManager[None]:
        """Ablated on every writer is ablated at every point of the stream."""
        return Edit.from_directions(vector, self.model_base, self.writers).hooks(self.chat.model)

    def _mean(
        self, tokens: Sequence[Sequence[int]], layers: Sequence[int], changed: AbstractContextManager[None]
    ) -> Float[Tensor, "layer position d_model"]:
        """Mean over the prompts behind `layers`, summed in float64."""
        total: Tensor = torch.zeros((), dtype=torch.float64)
        with changed, capture(self.chat.model, ["resid_post"], layers, self.positions) as stream:
            for batch in self.chat.batches(tokens, self.batch_tokens):
                self.chat.hidden(batch)
                held = [stream["resid_post", layer].double().sum(0).cpu() for layer in layers]
                total = total + torch.stack(held)
        return total / len(tokens)
