"""A selective search: one kind of refusal goes, another kind stays, though both lie along much the
same direction.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import tiny_chat
from finished_run import finished_run, scores_in, summary_in

from vectomy.models import Example
from vectomy.search.gradient.train_passes import add_prompts_not_shown

TIER = "chat"

GO, STAY = tiny_chat.NIGHT[:3], tiny_chat.NIGHT[3:]


@cache
def sources() -> dict[str, str]:
    given = {}
    for name, nouns in (("positive", GO), ("keep", STAY), ("negative", tiny_chat.DAY)):
        file = tiny_chat.scratch() / f"{name}.json"
        file.write_text(json.dumps(tiny_chat.texts(nouns)), encoding="utf-8")
        given[name] = str(file)
    return given


def selective_run(recipe: str) -> Path:
    return finished_run(prompts=sources, recipe=recipe, bake=False)


def test_one_kind_goes_and_the_other_stays() -> None:
    folder = selective_run("selective")
    summary, scores = summary_in(folder), scores_in(folder)
    base, edited = summary["base"], summary["edited"]
    assert base["refusal_rate"] == base["keep_refusal_rate"] == 1.0
    assert edited["refusal_rate"] <= 0.2
    assert edited["keep_refusal_rate"] >= 0.8
    chosen = next(point for point in scores["candidates"] if point["step"] == scores["chosen"]["step"])
    assert chosen["held"] >= 0.95 * chosen["held_base"]


def test_without_the_third_set_in_the_objective_both_go() -> None:
    """What `selective` is for: the closed-form direction of the same contrast takes both away."""
    summary = summary_in(selective_run("arditi"))
    assert summary["edited"]["refusal_rate"] <= 0.2
    assert summary["edited"]["keep_refusal_rate"] <= 0.5


def test_all_three_sets_are_answered_and_shown() -> None:
    summary = summary_in(selective_run("selective"))
    for form in (summary["base"], *summary["forms"].values()):
        assert form["keep_refusal_total"] > 2
        assert form["keep_refusal_ci"][0] <= form["keep_refusal_rate"] <= form["keep_refusal_ci"][1]


@pytest.mark.unit
def test_prompts_that_do_not_show_it_are_learned_from_with_openings_of_others() -> None:
    tokens = [[row, row] for row in range(4)]
    shown = [Example(1, tokens[1], [[7, 8], [9]]), Example(3, tokens[3], [[9]])]
    found = add_prompts_not_shown(tokens, shown, seed=0)
    assert found[:2] == shown
    assert [(one.row, one.prompt) for one in found[2:]] == [(0, tokens[0]), (2, tokens[2])]
    assert all(one.answers in ([[7, 8]], [[9]]) for one in found[2:])
    assert found == add_prompts_not_shown(tokens, shown, seed=0)
