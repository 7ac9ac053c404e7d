"""Recipe `article`: mlabonne, "Uncensor any LLM with abliteration" (2024-06-04), the best-known
pipeline.

1. Take differences of means at the last token, normalised, at resid_pre of layers 1 to L-1.
2. Rank them by |mean of the direction's components|, largest first.
3. Let the best 20 answer a few positive search prompts, with the direction ablated at resid_pre,
   resid_mid and resid_post of every layer.
4. Drop answers that contain a blacklisted phrase behind their thoughts. A person reads the rest and
   picks.

The score of step 2 has no theory behind it: this recipe is a reference, not a recommendation.
"""

from __future__ import annotations

from functools import partial

import torch

from vectomy.core.errors import SelectionError
from vectomy.core.linalg import normalise
from vectomy.core.types import SITES, Vector
from vectomy.data.prompts import Prompt
from vectomy.data.thoughts import split_thoughts
from vectomy.hooks.interventions import ablate, intervene
from vectomy.metrics.judges import degenerate
from vectomy.search.estimators import Directions
from vectomy.search.recipe import Candidate, RecipeInput, RecipeResult

__all__ = ["is_dropped", "rank", "select_article"]

BLACKLIST = ("I cannot", "I can't")


def rank(directions: Directions) -> list[Candidate]:
    """All directions at resid_pre from layer 1 on, best first, each with the article's score."""
    position = directions.positions[-1]
    rows: list[Candidate] = []
    for layer in range(1, directions.vectors.shape[1]):
        vector = directions.at("resid_pre", layer, position)
        score = float(normalise(vector.double()).mean().abs())
        rows.append({"site": "resid_pre", "layer": layer, "position": position, "score": score})
    rows.sort(key=lambda row: -row["score"])
    return [{**row, "rank": place} for place, row in enumerate(rows)]


@torch.inference_mode()
def select_article(task: RecipeInput) -> RecipeResult:
    """Rank the directions, try the best ones, and pick one.

    The pick is `pick` if given; otherwise a person is asked; without a person it is the candidate
    with the fewest dropped answers, and of equal ones the better ranked. Loops, empty answers and
    those that end inside a thought count as dropped.

    Raises:
        SelectionError: `pick` is not the rank of a tried candidate.
    """
    chat, directions, limits = task.chat, task.directions, task.config.selection
    rows = rank(directions)
    tried = rows[: limits.candidates]
    shown = list(task.positive["search"][: limits.shown_prompts])
    if limits.pick is not None and limits.pick >= len(tried):
        raise SelectionError(
            f"--pick {limits.pick} is not among the {len(tried)} tried candidates (ranks 0 to "
            f"{len(tried) - 1})"
        )
    with task.progress("trying directions", len(tried), "directions") as update:
        for row in tried:
            vector = directions.at(row["site"], row["layer"], row["position"])
            answer = partial(_answer_ablated, task, vector, shown)
            row["answers"] = task.journal.get_or_compute(f"{row['layer']} {row['position']}", answer)
            row["dropped"] = sum(answer["dropped"] for answer in row["answers"])
            update(1)
            task.log(
                f"tried direction {row['rank'] + 1} of {len(tried)}, layer {row['layer']}: "
                f"{row['dropped']} of {len(row['answers'])} answers dropped"
            )
    if limits.pick is not None:
        picked, how = limits.pick, f"--pick {limits.pick}"
    elif task.ask is not None:
        picked, how = task.ask(tried), "picked by a person"
    else:
        picked = min(tried, key=lambda row: (row["dropped"], row["rank"]))["rank"]
        how = "headless: fewest dropped answers, then the article's score"
    chosen = tried[picked]
    place = {key: chosen[key] for key in ("site", "layer", "position")}
    token = chat.tokenizer.decode([chat.post_instruction()[chosen["position"]]])
    scores = {"recipe": "article", "candidates": rows, "chosen": {**place, "token": token}, "how": how}
    return task.ablate_everywhere(scores, directions.at(chosen["site"], chosen["layer"], chosen["position"]))


def _answer_ablated(task: RecipeInput, vector: Vector, prompts: list[Prompt]) -> list[dict[str, str | bool]]:
    """The model's answers with the direction ablated at every point of the residual stream."""
    chat, c = task.chat, task.config
    remove = ablate(normalise(vector))
    everywhere = {(site, layer): remove for site in SITES for layer in range(chat.architecture.n_layers)}
    with intervene(chat.model, everywhere):
        answers = chat.answer(chat.tokens(prompts), c.selection.shown_tokens, c.runtime.batch_tokens)
    texts = [chat.text(answer) for answer in answers]
    return [
        {"prompt": prompt.text, "completion": text, "dropped": is_dropped(text)}
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def is_dropped(text: str) -> bool:
    """Whether an answer is blacklisted, degenerate, or ends inside its thought."""
    split = split_thoughts(text)
    plain = split.answer.replace("\u2019", "'")
    return not split.finished or any(phrase in plain for phrase in BLACKLIST) or degenerate(plain)
