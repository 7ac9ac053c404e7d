"""Recipe `article`: mlabonne, "Uncensor any LLM with abliteration" (2024-06-04), the pipeline most
people know.

Differences of means at the last token, normalised; resid_pre of layers 1 to L-1, ranked by |mean of
the direction's components|, descending; the best 20 answer a few positive search prompts with the
direction ablated at resid_pre, resid_mid and resid_post of every layer; answers with a blacklisted
phrase are dropped; a person reads the rest and picks. That score has no principle behind it: this
is the reference, not the recommendation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from vectomy.core.config import Selection
from vectomy.core.errors import SelectionError
from vectomy.core.linalg import normalise
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import Journal
from vectomy.core.types import SITES, Vector
from vectomy.data.prompts import Prompt
from vectomy.hooks.interventions import ablate, intervene
from vectomy.metrics.judges import degenerate
from vectomy.models import ChatModel
from vectomy.search.estimators import Directions

__all__ = ["Ask", "rank", "select_article"]

BLACKLIST = ("I cannot", "I can't")
Ask = Callable[[list[dict[str, Any]]], int]
"""Shows the tried candidates to a person and gives the rank that they pick."""


def rank(directions: Directions) -> list[dict[str, Any]]:
    """All directions at resid_pre from layer 1 on, best first, with the article's score."""
    position = directions.positions[-1]
    rows: list[dict[str, Any]] = []
    for layer in range(1, directions.vectors.shape[1]):
        vector = directions.at("resid_pre", layer, position)
        score = float(normalise(vector.double()).mean().abs())
        rows.append({"site": "resid_pre", "layer": layer, "position": position, "score": score})
    rows.sort(key=lambda row: -row["score"])
    return [{**row, "rank": place} for place, row in enumerate(rows)]


@torch.inference_mode()
def select_article(
    chat: ChatModel,
    directions: Directions,
    positive: Sequence[Prompt],
    limits: Selection,
    *,
    journal: Journal,
    batch_tokens: int = 4096,
    ask: Ask | None = None,
    progress: Progress = silent,
) -> tuple[dict[str, Any], Vector]:
    """Rank the directions, try the best, and pick: by `limits.pick`, by asking a person, or
    headless the candidate with the fewest dropped answers (a loop or an empty one counts as
    dropped), of equal ones the better ranked.

    Returns:
        (scores as scores.json has them, the chosen vector with its own length).

    Raises:
        SelectionError: `limits.pick` is no tried rank.
    """
    rows = rank(directions)
    tried = rows[: limits.candidates]
    shown = list(positive[: limits.shown_prompts])
    if limits.pick is not None and limits.pick >= len(tried):
        raise SelectionError(
            f"--pick {limits.pick} is not among the {len(tried)} tried candidates (ranks 0 to {len(tried) - 1})"
        )
    with progress("trying directions", len(tried), "directions") as update:
        for row in tried:
            vector = directions.at(row["site"], row["layer"], row["position"])
            key = f"{row['layer']} {row['position']}"
            row["answers"] = journal.get_or_compute(
                key, partial(_answers, chat, vector, shown, limits.shown_tokens, batch_tokens)
            )
            row["dropped"] = sum(answer["dropped"] for answer in row["answers"])
            update(1)
    if limits.pick is not None:
        picked, how = limits.pick, f"--pick {limits.pick}"
    elif ask is not None:
        picked, how = ask(tried), "picked by a person"
    else:
        picked = min(tried, key=lambda row: (row["dropped"], row["rank"]))["rank"]
        how = "headless: fewest dropped answers, then the article's score"
    chosen = tried[picked]
    vector = directions.at(chosen["site"], chosen["layer"], chosen["position"])
    place = {key: chosen[key] for key in ("site", "layer", "position")}
    token = chat.tokenizer.decode([chat.post_instruction()[chosen["position"]]])
    return {"recipe": "article", "candidates": rows, "chosen": {**place, "token": token}, "how": how}, vector


def _answers(
    chat: ChatModel, vector: Vector, prompts: list[Prompt], tokens: int, batch_tokens: int
) -> list[dict[str, Any]]:
    """What the model answers with the direction ablated at every point of the stream."""
    remove = ablate(normalise(vector))
    everywhere = {(site, layer): remove for site in SITES for layer in range(chat.architecture.n_layers)}
    with intervene(chat.model, everywhere):
        answers = [chat.text(answer) for answer in chat.answer(chat.tokens(prompts), tokens, batch_tokens)]
    return [
        {"prompt": prompt.text, "completion": text, "dropped": _dropped(text)}
        for prompt, text in zip(prompts, answers, strict=True)
    ]


def _dropped(text: str) -> bool:
    plain = text.replace("\u2019", "'")
    return any(phrase in plain for phrase in BLACKLIST) or degenerate(plain)
