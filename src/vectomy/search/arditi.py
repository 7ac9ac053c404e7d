"""Recipe `arditi`: every position of the template at every layer, three scores, the paper's rule
(arditi_rule.py).

    refusal_score   mean log-odds of the behaviour tokens on positive prompts, the direction ablated
    everywhere steering_score  the same on negative prompts, the direction added at its own layer
    kl_div_score    mean KL(base || ablated) of the first token on negative prompts, in nats

Source: Arditi et al., arXiv 2406.11717. The scores come cheapest filter first, and a candidate that
is out is not scored further, which leaves the choice as it is; `limits.complete` scores everything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from vectomy.architecture import Writer
from vectomy.core.config import Selection
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import Journal
from vectomy.core.types import Vector
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.hooks.interventions import add, intervene
from vectomy.metrics.judges import REFUSALS, Judge
from vectomy.metrics.logits import kl_divergence, log_odds
from vectomy.models import ChatModel
from vectomy.search.arditi_rule import choose, choose_beyond_kl, rejection
from vectomy.search.estimators import Directions

__all__ = ["select_arditi"]

# The filters first: most directions fall to them.
ORDER = ("steering_score", "kl_div_score", "refusal_score")


@torch.inference_mode()
def select_arditi(
    chat: ChatModel,
    directions: Directions,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    tokens: Sequence[int],
    limits: Selection,
    judge: Judge | None,
    *,
    writers: Sequence[Writer] | None = None,
    answer_tokens: int = 64,
    journal: Journal,
    batch_tokens: int = 4096,
    progress: Progress = silent,
) -> tuple[dict[str, Any], Vector]:
    """Score the directions at resid_pre on the search prompts and choose one.

    `judge` says whether an answer shows the behaviour; None where there is no judge of it.
    Directions are ablated on `writers`, on all of them unless given.

    Returns:
        (scores as scores.json has them, the chosen vector with its own length).

    Raises:
        SelectionError: no direction passes the filters.
    """
    scorer = _ArditiScorer(chat, positive, negative, tokens, batch_tokens, judge, answer_tokens, writers)
    rows = _candidates(chat, directions)
    n_layers = chat.architecture.n_layers

    def score(row: dict[str, Any], applied: Selection) -> None:
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
        return float(row["still_shown"])

    considered = [row for row in rows if row["rejected"] is None]
    with progress("scoring directions", len(considered), "directions") as update:
        for row in considered:
            score(row, limits)
            row["rejected"] = rejection(row, n_layers, limits)
            update(1)
    note = None
    if limits.strict or any(row["rejected"] is None for row in considered):
        chosen = choose(considered, n_layers, limits)
    else:
        beyond = limits.model_copy(update={"kl_threshold": math.inf})
        with progress("scoring directions beyond the KL filter", len(considered), "directions") as update:
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
    return scores, directions.at("resid_pre", chosen["layer"], chosen["position"])


def _candidates(chat: ChatModel, directions: Directions) -> list[dict[str, Any]]:
    """A row per layer and position; out at once where the two sets have the same mean (template
    tokens at layer 0).
    """
    ending = chat.post_instruction()
    rows = []
    for layer in range(chat.architecture.n_layers):
        for position in directions.positions:
            same = not bool(directions.at("resid_pre", layer, position).any())
            row: dict[str, Any] = {"site": "resid_pre", "layer": layer, "position": position}
            row |= {"token": chat.tokenizer.decode([ending[position]]), **dict.fromkeys(ORDER)}
            rows.append({**row, "rejected": "both sets have the same mean there" if same else None})
    return rows


class _ArditiScorer:
    """The three scores of one direction, against what the base does on the same prompts."""

    def __init__(
        self,
        chat: ChatModel,
        positive: Sequence[Prompt],
        negative: Sequence[Prompt],
        tokens: Sequence[int],
        batch_tokens: int,
        judge: Judge | None,
        answer_tokens: int,
        writers: Sequence[Writer] | None,
    ) -> None:
        self.chat, self.judge, self.answer_tokens = chat, judge, answer_tokens
        self.writers = chat.architecture.writers if writers is None else writers
        self.prompts = positive
        self.positive, self.negative = chat.tokens(positive), chat.tokens(negative)
        self.tokens = tokens
        self.batch_tokens = batch_tokens
        self.model_base = BaseModelRef.of(chat.checkpoint)
        self.base = self._log_probs(self.negative)
        self.negative_base = float(log_odds(self.base, tokens).mean())
        self.positive_base = float(log_odds(self._log_probs(self.positive), tokens).mean())

    def _log_probs(self, prompts: list[list[int]]) -> torch.Tensor:
        return self.chat.next_token_log_probs(prompts, self.batch_tokens)

    def __call__(self, name: str, vector: Vector, layer: int) -> float:
        if name == "steering_score":
            with intervene(self.chat.model, {("resid_pre", layer): add(vector)}):
                return float(log_odds(self._log_probs(self.negative), self.tokens).mean())
        with self._ablated(vector):
            if name == "kl_div_score":
                return float(kl_divergence(self.base, self._log_probs(self.negative)).mean())
            return float(log_odds(self._log_probs(self.positive), self.tokens).mean())

    def _ablated(self, vector: Vector) -> AbstractContextManager[None]:
        """Ablated on the writers: on every one that is the same function as at every point of the
        stream (a test holds them together).
        """
        return Edit.from_directions(vector, self.model_base, self.writers).hooks(self.chat.model)

    def still_shown(self, vector: Vector) -> float:
        """Share of the positive prompts that show the behaviour with the direction ablated: by
        generating where there is a judge of it, else by the first token.
        """
        with self._ablated(vector):
            if self.judge is None:
                return float((log_odds(self._log_probs(self.positive), self.tokens) > 0).double().mean())
            answers = self.chat.answer(self.positive, self.answer_tokens, self.batch_tokens)
        verdicts = [
            self.judge.verdict(p.text, self.chat.text(a)) for p, a in zip(self.prompts, answers, strict=True)
        ]
        return sum(verdict in REFUSALS for verdict in verdicts) / len(verdicts)
