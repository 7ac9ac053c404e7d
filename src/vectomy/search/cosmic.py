"""Recipe `cosmic`: chooses a direction by its effect on activations. It reads no token and no
answer.

    induced   cos(negative prompts with the direction added at its own layer, positive prompts)
    removed   cos(positive prompts with the direction ablated everywhere, negative prompts)

score = induced + removed, at most 2. Each set is represented by its mean activation (resid_post) at
the compared layers and at the template's tokens, concatenated into one vector. The compared layers
are the tenth of the layers at which the two sets are least alike. Of the directions whose
KL(base || ablated) on negative prompts is below `kl_threshold`, the best score is chosen.

Source: Siu et al., "COSMIC: Generalized Refusal Direction Identification in LLM Activations", arXiv
2506.00085. The authors' code compares the last token alone and averages over the layers as well, so
that layers with long activations outweigh the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.errors import SelectionError
from vectomy.core.linalg import cosine
from vectomy.core.ranks import current_ranks
from vectomy.core.run_config import Selection
from vectomy.core.types import Vector
from vectomy.edits.edit import Edit
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import add, intervene
from vectomy.models import Batch, ChatModel
from vectomy.models.label_scores import kl_divergence
from vectomy.search.arditi_rule import rejection
from vectomy.search.estimators import Directions
from vectomy.search.recipe import Candidate, RecipeInput, RecipeResult

__all__ = ["least_alike", "select_cosmic"]

# Fraction of the layers at which the two sets are compared.
COMPARED = 0.1


@torch.inference_mode()
def select_cosmic(task: RecipeInput) -> RecipeResult:
    """Score the directions at resid_pre below `layer_fraction` of the depth on the search prompts,
    and choose one.

    KL is measured from the best score down, until a direction passes; `complete` measures all. If
    none passes, the best score is chosen and a note says so.

    Raises:
        SelectionError: no direction can be scored, or, with `strict`, none passes the KL filter.
    """
    directions, limits, journal = task.directions, task.config.selection, task.journal
    scorer = _CosmicScorer(task)
    rows = _list_candidates(task.chat, directions, limits)
    considered = [row for row in rows if row["rejected"] is None]
    with task.progress("scoring directions", len(considered), "directions") as update:
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
            f"none of {len(rows)} directions can be scored: at the template's tokens the two sets do not "
            "differ at any "
            f"layer below {limits.layer_fraction:g} of the depth; give other prompts, or raise "
            "--layer-fraction"
        )
    for row in scored:
        vector = directions.at("resid_pre", row["layer"], row["position"])
        row["kl_div_score"] = journal.get_or_compute(
            f"{row['layer']} {row['position']} kl", partial(scorer.kl, vector)
        )
        row["rejected"] = rejection(row, task.chat.architecture.n_layers, limits)
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
    return task.ablate_everywhere(scores, directions.at("resid_pre", chosen["layer"], chosen["position"]))


def _choose(scored: Sequence[Candidate], limits: Selection) -> tuple[Candidate, str | None]:
    """The first candidate that passes, in the order of the scores; otherwise the first of all, and
    a note that says so.
    """
    passing = next((row for row in scored if row["rejected"] is None), None)
    if passing is not None:
        return passing, None
    if limits.strict:
        raise SelectionError(
            f"none of {len(scored)} directions passes the filter KL < {limits.kl_threshold:g}; loosen "
            "--kl-threshold, or omit "
            "--strict to take the best score anyway"
        )
    best = scored[0]
    return best, (
        f"no direction passes the filter KL < {limits.kl_threshold:g}; the best score is taken instead "
        f"({best['score']:.3g}, KL {best['kl_div_score']:.3g})"
    )


def least_alike(
    one: Float[Tensor, "layer position d_model"], other: Float[Tensor, "layer position d_model"]
) -> list[int]:
    """The tenth of the layers (at least one) at which the two means have the lowest cosine, in
    ascending order.
    """
    similarity = cosine(one.flatten(1), other.flatten(1))
    count = max(1, round(COMPARED * len(similarity)))
    return sorted(similarity.argsort(stable=True)[:count].tolist())


def _list_candidates(chat: ChatModel, directions: Directions, limits: Selection) -> list[Candidate]:
    """One row per layer and position. A row is rejected at once if it lies too deep, or if both
    sets have the same mean there.
    """
    ending, n_layers = chat.post_instruction(), chat.architecture.n_layers
    rows = []
    for layer in range(n_layers):
        for position in directions.positions:
            row: Candidate = {"site": "resid_pre", "layer": layer, "position": position}
            same = not bool(directions.at("resid_pre", layer, position).any())
            row["token"] = chat.tokenizer.decode([ending[position]])
            row |= dict.fromkeys(("score", "induced", "removed", "kl_div_score"))
            reason = "both sets have the same mean there" if same else rejection(row, n_layers, limits)
            rows.append({**row, "rejected": reason})
    return rows


class _CosmicScorer:
    """Mean activations of the two sets, in the base and under a direction."""

    def __init__(self, task: RecipeInput) -> None:
        self.task, self.chat = task, task.chat
        self.positive, self.negative = (
            task.chat.tokens(side["search"]) for side in (task.positive, task.negative)
        )
        every = list(range(task.chat.architecture.n_layers))
        sides = [self._mean(tokens, every, nullcontext()) for tokens in (self.positive, self.negative)]
        self.compared = least_alike(*sides)
        self.mean_positive, self.mean_negative = (side[self.compared].flatten() for side in sides)

    def cosines(self, vector: Vector, layer: int) -> dict[str, float]:
        steered = intervene(self.chat.model, {("resid_pre", layer): add(vector)})
        induced = self._mean(self.negative, self.compared, steered).flatten()
        removed = self._mean(self.positive, self.compared, self._ablate(vector)).flatten()
        return {
            "induced": float(cosine(induced, self.mean_positive)),
            "removed": float(cosine(removed, self.mean_negative)),
        }

    def kl(self, vector: Vector) -> float:
        """KL(base || ablated) of the first token on the negative prompts, in nats."""
        with self._ablate(vector):
            ablated = self._log_probs()
        return float(kl_divergence(self.base, ablated).mean())

    @cached_property
    def base(self) -> Float[Tensor, "prompt vocab"]:
        return self._log_probs()

    def _log_probs(self) -> Float[Tensor, "prompt vocab"]:
        return self.chat.next_token_log_probs(self.negative, self.task.config.runtime.batch_tokens)

    def _ablate(self, vector: Vector) -> AbstractContextManager[None]:
        """Ablation at every writer equals ablation at every point of the residual stream
        (tested).
        """
        return Edit.from_directions(vector, self.task.base, self.task.writers).hooks(self.chat.model)

    def _mean(
        self, tokens: Sequence[Sequence[int]], layers: Sequence[int], change: AbstractContextManager[None]
    ) -> Float[Tensor, "layer position d_model"]:
        """Mean over the prompts after each of `layers`, under `change`; summed in float64. The
        batches are shared by the ranks.
        """
        positions = self.task.directions.positions
        with change, capture(self.chat.model, ["resid_post"], layers, positions) as activations:

            def sum_rows(batch: Batch) -> Tensor:
                self.chat.hidden(batch)
                return torch.stack(
                    [activations["resid_post", layer].cpu().double().sum(0) for layer in layers]
                )

            batches = list(self.chat.batches(tokens, self.task.config.runtime.batch_tokens))
            total: Tensor = sum(current_ranks().map(sum_rows, batches), torch.zeros((), dtype=torch.float64))
        return total / len(tokens)
