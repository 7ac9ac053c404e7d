"""Recipe `arditi`: scores the direction at every layer and template position, then applies the
paper's rule (arditi_rule.py).

Three scores, all on the search prompts:

    refusal_score   mean log-odds of the behaviour tokens on positive prompts,
                    with the direction ablated everywhere
    steering_score  the same on negative prompts, with the direction added at its own layer
    kl_div_score    mean KL(base || ablated) of the first token on negative prompts, in nats

Source: Arditi et al., arXiv 2406.11717. The cheapest filter comes first, and a rejected candidate
is not scored any further. This does not change the choice; `complete` scores everything.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from vectomy.core.run_config import Selection
from vectomy.core.types import Vector
from vectomy.edits.edit import Edit
from vectomy.hooks.interventions import add, intervene
from vectomy.metrics.intervals import share_of_most
from vectomy.metrics.judges import find_refusals
from vectomy.metrics.logits import log_odds
from vectomy.models import ChatModel
from vectomy.models.label_scores import kl_divergence
from vectomy.search.arditi_rule import choose, choose_beyond_kl, rejection
from vectomy.search.estimators import Directions
from vectomy.search.recipe import Candidate, RecipeInput, RecipeResult

__all__ = ["select_arditi"]

# The filters come first: most directions fail one of them.
ORDER = ("steering_score", "kl_div_score", "refusal_score")


@torch.inference_mode()
def select_arditi(task: RecipeInput) -> RecipeResult:
    """Score the directions at resid_pre on the search prompts and choose one.

    Raises:
        SelectionError: no direction passes the filters.
    """
    chat, directions, limits, journal = task.chat, task.directions, task.config.selection, task.journal
    scorer = _ArditiScorer(task)
    rows = _list_candidates(chat, directions)
    n_layers = chat.architecture.n_layers

    def score(row: Candidate, applied: Selection) -> None:
        vector = directions.at("resid_pre", row["layer"], row["position"])
        for name in ORDER:
            if row[name] is None and (limits.complete or rejection(row, n_layers, applied) is None):
                row[name] = journal.get_or_compute(
                    f"{row['layer']} {row['position']} {name}", partial(scorer, name, vector, row["layer"])
                )

    def still_shown(row: Any) -> float:
        vector = directions.at("resid_pre", row["layer"], row["position"])
        row["still_shown"] = journal.get_or_compute(
            f"{row['layer']} {row['position']} still_shown", partial(scorer.still_shown, vector)
        )
        # Where most answers could not be judged, nothing shows that the behaviour is gone.
        return 1.0 if row["still_shown"] is None else float(row["still_shown"])

    considered = [row for row in rows if row["rejected"] is None]
    with task.progress("scoring directions", len(considered), "directions") as update:
        for row in considered:
            score(row, limits)
            row["rejected"] = rejection(row, n_layers, limits)
            update(1)
    note = None
    if limits.strict or any(row["rejected"] is None for row in considered):
        chosen = choose(considered, n_layers, limits)
    else:
        beyond = limits.model_copy(update={"kl_threshold": math.inf})
        title = "scoring directions beyond the KL filter"
        with task.progress(title, len(considered), "directions") as update:
            for row in considered:
                score(row, beyond)
                update(1)
        chosen, note = choose_beyond_kl(considered, n_layers, limits, still_shown)
    scores = {
        "recipe": "arditi",
        "candidates": rows,
        "chosen": {key: chosen[key] for key in ("site", "layer", "position", "token")},
        "note": note,
        "baseline": {"positive": scorer.positive_base, "negative": scorer.negative_base},
        "thresholds": limits.model_dump(include={"kl_threshold", "induce_threshold", "layer_fraction"}),
    }
    return task.ablate_everywhere(scores, directions.at("resid_pre", chosen["layer"], chosen["position"]))


def _list_candidates(chat: ChatModel, directions: Directions) -> list[Candidate]:
    """One row per layer and position. A row is rejected at once if both sets have the same mean
    there, as at the template tokens of layer 0.
    """
    ending = chat.post_instruction()
    rows = []
    for layer in range(chat.architecture.n_layers):
        for position in directions.positions:
            same = not bool(directions.at("resid_pre", layer, position).any())
            row: Candidate = {"site": "resid_pre", "layer": layer, "position": position}
            row |= {"token": chat.tokenizer.decode([ending[position]]), **dict.fromkeys(ORDER)}
            rows.append({**row, "rejected": "both sets have the same mean there" if same else None})
    return rows


class _ArditiScorer:
    """The three scores of a direction. The base is measured once, on the same prompts."""

    def __init__(self, task: RecipeInput) -> None:
        self.task, self.chat = task, task.chat
        self.prompts = task.positive["search"]
        self.positive, self.negative = (
            task.chat.tokens(side["search"]) for side in (task.positive, task.negative)
        )
        self.base = self._log_probs(self.negative)
        self.negative_base = float(log_odds(self.base, task.tokens).mean())
        self.positive_base = float(log_odds(self._log_probs(self.positive), task.tokens).mean())

    def _log_probs(self, prompts: list[list[int]]) -> torch.Tensor:
        return self.chat.next_token_log_probs(prompts, self.task.config.runtime.batch_tokens)

    def __call__(self, name: str, vector: Vector, layer: int) -> float:
        if name == "steering_score":
            with intervene(self.chat.model, {("resid_pre", layer): add(vector)}):
                return float(log_odds(self._log_probs(self.negative), self.task.tokens).mean())
        with self._ablate(vector):
            if name == "kl_div_score":
                return float(kl_divergence(self.base, self._log_probs(self.negative)).mean())
            return float(log_odds(self._log_probs(self.positive), self.task.tokens).mean())

    def _ablate(self, vector: Vector) -> AbstractContextManager[None]:
        """Ablation at every writer equals ablation at every point of the residual stream
        (tested).
        """
        return Edit.from_directions(vector, self.task.base, self.task.writers).hooks(self.chat.model)

    def still_shown(self, vector: Vector) -> float | None:
        """Share of the positive prompts that show the behaviour with the direction ablated; None if
        most answers could not be judged.

        Measured on generated answers if there is a judge, otherwise by the first token.
        """
        task, c = self.task, self.task.config
        with self._ablate(vector):
            if task.judge is None:
                return float((log_odds(self._log_probs(self.positive), task.tokens) > 0).double().mean())
            answers = self.chat.answer(self.positive, c.answer_tokens, c.runtime.batch_tokens)
        texts = [self.chat.text(answer) for answer in answers]
        return share_of_most(find_refusals(task.judge, [prompt.text for prompt in self.prompts], texts))
