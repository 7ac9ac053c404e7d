"""The points of the gradient search: states at strengths of the dial, and which are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.operation import Operation
from vectomy.search.gradient.edit_objective import EditObjective
from vectomy.search.gradient.frontier_points import DIAL, FrontierPoints, choose, list_tried, measure_points
from vectomy.search.gradient.parameters import SearchState, read_state, scale_state, write_state
from vectomy.search.recipe import RecipeInput
from vectomy.search.search_split import AnswerShares, SearchSplitEvaluator

TIER = "unit"

BASE = BaseModelRef("llama", 2, 1, 9, "f")


class Memory:
    """A journal that stores nothing between runs; `names` are those that were computed."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {}

    def get_or_compute(self, name: str, compute: Callable[[], Any]) -> Any:
        if name not in self.stored:
            self.stored[name] = compute()
        return self.stored[name]


class Objective(EditObjective):
    """Edits of one writer along one direction."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def build_edit(self, state: SearchState) -> Edit:
        tensors = read_state(state["tensors"])
        basis = torch.nn.functional.normalize(tensors["vectors"][0], dim=-1)
        return Edit(BASE, (Operation("mlp", 0, basis, tensors["strengths"][0]),))


class Evaluator(SearchSplitEvaluator):
    """KL grows with the strength, the behaviour is gone from one strength on, and answers go in
    circles below another.
    """

    def __init__(self, gone_from: float, circles_below: float = 0.0) -> None:
        self.gone_from, self.circles_below = gone_from, circles_below
        self.base_degenerate = 0.05
        self.generated: list[float] = []

    def divergence(self, edits: Sequence[Edit]) -> list[dict[str, float]]:
        return [{"kl": strength_of(edit) ** 1.6, "kl_first_token": 0.0} for edit in edits]

    def measure(self, edit: Edit) -> AnswerShares:
        strength = strength_of(edit) + 1e-6
        self.generated.append(strength_of(edit))
        return AnswerShares(
            0.0 if strength >= self.gone_from else 0.5, 0.1 if strength >= self.circles_below else 0.3
        )


def strength_of(edit: Edit) -> float:
    return float(edit.operations[0].strengths)


def state_of(strength: float, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "tensors": write_state({"strengths": torch.tensor([[strength]]), "vectors": torch.ones(1, 1, 2)}),
    }


def measure(
    strengths: Sequence[float], gone_from: float, circles_below: float = 0.0, **limits: Any
) -> tuple[FrontierPoints, Evaluator, Any]:
    selection = SimpleNamespace(**{"target_rate": 0.05, "kl_budget": None, "max_degenerate": None, **limits})
    # Of the input of a recipe, only what the points need.
    task = object.__new__(RecipeInput)
    vars(task).update(
        journal=Memory(),
        chat=SimpleNamespace(stream=None),
        log=lambda line: None,
        preserve=None,
        config=SimpleNamespace(selection=selection),
    )
    evaluator = Evaluator(gone_from, circles_below)
    states = [state_of(strength, 4 * number) for number, strength in enumerate(strengths, 1)]
    return measure_points(Objective(task), evaluator, states), evaluator, task


@pytest.mark.parametrize("gone_from", [0.33, 0.5, 0.68, 1.0, 1.24])
def test_the_dial_finds_the_least_strength_that_meets_the_target(gone_from: float) -> None:
    """Where the effect rises with the strength, the chosen point is the cheapest of all states and
    strengths that has it, after few answers.
    """
    strengths = (1.0, 0.9, 0.7)
    points, evaluator, task = measure(strengths, gone_from)
    tried = list_tried(points.rows)
    chosen, note = choose([points.rows[index] for index in tried], task)
    edit = points.edits[tried[chosen]]
    enough = [one * dial for one in strengths for dial in DIAL if one * dial >= gone_from - 1e-6]
    assert note is None
    assert strength_of(edit) == pytest.approx(min(enough), rel=1e-5)
    assert len(evaluator.generated) <= 6
    assert points.rows[tried[chosen]]["kl"] == pytest.approx(strength_of(edit) ** 1.6, rel=1e-5)


def test_every_state_is_a_point_at_strength_1_and_untried_points_have_no_rate() -> None:
    points, _, _ = measure((1.0, 0.9, 0.7), 0.68)
    assert [row["step"] for row in points.rows if row["strength"] == 1.0] == [4, 8, 12]
    for row, edit in zip(points.rows, points.edits, strict=True):
        assert (row["rate"] is None) == (row["rejected"] is not None)
        assert row["kl"] == pytest.approx(strength_of(edit) ** 1.6, rel=1e-5)
    assert all(row["rate"] is not None for row in points.rows if row["strength"] != 1.0)


def test_a_budget_takes_the_largest_strength_of_each_state_within_it() -> None:
    budget = 0.7**1.6 * 1.001
    points, evaluator, _ = measure((1.0, 0.7), 2.0, kl_budget=budget)
    # At strength 1 the KL is known; below, the estimate leaves room for what it may be off by.
    assert sorted(round(value, 3) for value in evaluator.generated) == [0.6, 0.7]
    tried = list_tried(points.rows)
    assert all(points.rows[index]["kl"] <= budget for index in tried)
    at_1 = {row["step"]: row["rejected"] for row in points.rows if row["strength"] == 1.0}
    assert "KL is above" in at_1[4]
    assert at_1[8] is None


def test_a_scaled_state_is_the_same_edit_at_another_strength() -> None:
    state = state_of(0.8, 4)
    scaled = read_state(scale_state(state, 0.5)["tensors"])
    assert float(scaled["strengths"]) == pytest.approx(0.4)
    assert torch.equal(scaled["vectors"], read_state(state["tensors"])["vectors"])


def test_a_limit_of_degenerate_answers_takes_the_next_point_that_keeps_it() -> None:
    """Without the limit the least KL is chosen, in circles or not."""
    limited, _, task = measure((1.0,), 0.6, circles_below=0.85, max_degenerate=0.1)
    free, _, free_task = measure((1.0,), 0.6, circles_below=0.85)
    assert chosen_strength(free, free_task) == (pytest.approx(0.6), None)
    assert chosen_strength(limited, task) == (pytest.approx(0.9), None)


def test_a_limit_of_degenerate_answers_that_no_point_keeps_is_said() -> None:
    points, _, task = measure((1.0,), 0.6, circles_below=2.0, max_degenerate=0.1)
    strength, note = chosen_strength(points, task)
    assert strength == pytest.approx(0.6)
    assert note == "no edit that was tried keeps degenerate answers within --max-degenerate"


def chosen_strength(points: FrontierPoints, task: RecipeInput) -> tuple[float, str | None]:
    tried = list_tried(points.rows)
    index, note = choose([points.rows[place] for place in tried], task)
    return points.rows[tried[index]]["strength"], note
