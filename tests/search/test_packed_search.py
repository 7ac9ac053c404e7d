"""Searches on a base of 4 bits a weight, for a bake in full precision."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_chat
from packed_layers import pack_layers
from tiny_chat import DAY, NIGHT
from tiny_directions import recipe_input

from vectomy.edits.export import bake
from vectomy.metrics.judges import RefusalJudge
from vectomy.models import ChatModel, load_model
from vectomy.search.collect import collect
from vectomy.search.estimators import fit_directions
from vectomy.search.recipes import RECIPES

TIER = "chat"
HELD_OUT = {nouns: tiny_chat.prompts(nouns, 24, seed=9) for nouns in (NIGHT, DAY)}
SEARCHED = tiny_chat.prompts(NIGHT, 24, seed=1)
# The last of four layers is beyond arditi's usual share of the depth.
OPTIONS = {
    "gradient": {"steps": 12},
    "arditi": {"layer_fraction": 1.0},
    "tpe": {"trials": 40, "startup_trials": 20, "kl_budget": 10, "seed": 1},
}
# The directions of few trials leave some prompts that they were not chosen on.
MOST_LEFT = {"gradient": 0.2, "arditi": 0.0, "tpe": 0.2}


def share_refused(chat: ChatModel, nouns: tuple[str, ...]) -> float:
    prompts = HELD_OUT[nouns]
    answers = chat.answer(chat.tokens(prompts), 8, 4096)
    judge = RefusalJudge()
    verdicts = [
        judge.verdict(prompt.text, chat.text(answer)) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return sum(verdict.endswith("refusal") for verdict in verdicts) / len(verdicts)


@pytest.mark.parametrize("recipe", list(OPTIONS))
@pytest.mark.parametrize("weight_first", [True, False], ids=["weight", "qweight"])
def test_what_was_found_in_4_bits_holds_in_full_precision(
    tmp_path: Path, recipe: str, weight_first: bool
) -> None:
    packed = pack_layers(tiny_chat.chat(), weight_first)
    sides = [
        collect(packed, tiny_chat.prompts(nouns, 24), sites=["resid_pre"], positions=[-2, -1])
        for nouns in (NIGHT, DAY)
    ]
    vectors = fit_directions(*sides, "projected")
    task = recipe_input(tmp_path, recipe, chat=packed, vectors=vectors, positive=SEARCHED, **OPTIONS[recipe])
    searched = {"positive": task.positive["search"], "negative": task.negative["search"]}
    answers = {side: packed.answer(packed.tokens(rows), 8, 4096) for side, rows in searched.items()}
    fitted = {side: tiny_chat.prompts(nouns, 24) for side, nouns in (("positive", NIGHT), ("negative", DAY))}
    positive, negative = ({"fit": fitted[side], "search": searched[side]} for side in searched)
    edit = RECIPES[recipe](replace(task, positive=positive, negative=negative, answers=answers)).edit
    assert share_refused(packed, NIGHT) == share_refused(tiny_chat.chat(), NIGHT) == 1.0
    with edit.hooks(packed.model):
        assert share_refused(packed, NIGHT) <= MOST_LEFT[recipe]
    bake(edit, packed.checkpoint, tmp_path / "baked")
    baked = load_model(tmp_path / "baked", device="cpu", dtype="float32")
    assert share_refused(baked, NIGHT) <= MOST_LEFT[recipe]
    assert share_refused(baked, DAY) == 0.0
