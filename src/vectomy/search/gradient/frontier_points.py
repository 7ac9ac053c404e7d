"""The points of the gradient search's frontier: stored states, measured on the search split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from vectomy.core.errors import SelectionError
from vectomy.edits.edit import Edit
from vectomy.search.gradient.edit_objective import EditObjective
from vectomy.search.gradient.parameters import SearchState
from vectomy.search.gradient.train_passes import UNJUDGED
from vectomy.search.pareto import choose_point, try_in_halves
from vectomy.search.recipe import Candidate, RecipeInput
from vectomy.search.search_split import SearchSplitEvaluator

__all__ = ["choose", "is_enough", "is_preserved", "list_tried", "measure_points"]

# The reason in scores.json of points that were not generated with.
UNTRIED = "not tried: one of less KL is enough, or one of more KL leaves too much"
# Of points most of whose answers have no verdict.
MOST_UNJUDGED = f"most answers could not be judged: {UNJUDGED}"
# A selective edit has to leave this share of the behaviour that the base shows on the preserve set.
PRESERVED = 0.95


def is_preserved(point: Candidate) -> bool:
    """Whether the behaviour stays on the preserve set; True without one, False if most answers to
    it could not be judged.
    """
    preserved, base = point.get("held", 1.0), point.get("held_base", 1.0)
    return preserved is not None and base is not None and bool(preserved >= PRESERVED * base)


def list_tried(points: Sequence[Candidate]) -> list[int]:
    """Indices of the points whose behaviour is known.

    Raises:
        SelectionError: there are none, because no answers could be judged.
    """
    tried = [index for index, point in enumerate(points) if point["rejected"] is None]
    if not tried:
        raise SelectionError(
            f"no edit can be chosen: of every edit that was tried, {MOST_UNJUDGED}; raise --answer-tokens, "
            "or give prompts that the model answers in English"
        )
    return tried


def is_enough(point: Candidate, task: RecipeInput) -> bool:
    return bool(point["rate"] <= task.config.selection.target_rate and is_preserved(point))


def choose(points: Sequence[Candidate], task: RecipeInput) -> tuple[int, str | None]:
    """The index that the rule of pareto.py chooses, and a note. A selective search chooses among
    the points that leave enough of the behaviour on the preserve set.
    """
    limits = task.config.selection
    allowed = [index for index, point in enumerate(points) if is_preserved(point)]
    chosen, note = choose_point(
        [points[index] for index in allowed] if allowed else points, limits.target_rate, limits.kl_budget
    )
    if allowed:
        return allowed[chosen], note
    return chosen, f"no edit leaves {PRESERVED:.0%} of the behaviour on the prompts to keep" + (
        f"; {note}" if note else ""
    )


def measure_points(
    objective: EditObjective, evaluator: SearchSplitEvaluator, states: Sequence[SearchState]
) -> tuple[list[Candidate], list[Edit]]:
    """Measure states on the search split, as points and Edits in the same order.

    KL is measured for all. The behaviour is measured by generating, or by the openings of answers
    (opening_shares.py) if the model is read block by block: with a KL budget for the points
    within it; otherwise by bisection, until the least KL at which the behaviour is gone is known.
    Points that were not tried are marked as rejected.
    """
    task, budget = objective.task, objective.task.config.selection.kl_budget
    edits = [objective.build_edit(state) for state in states]
    divergences = task.journal.get_or_compute(
        f"damage up to {states[-1]['step']}", partial(evaluator.divergence, edits)
    )
    points: list[Candidate] = [
        {
            "step": state["step"],
            **divergence,
            "rate": None,
            "writers": len(edit.operations),
            "rejected": UNTRIED,
        }
        for state, edit, divergence in zip(states, edits, divergences, strict=True)
    ]
    order = sorted(range(len(points)), key=lambda index: points[index]["kl"])
    # In one read of the model, if it is read block by block.
    shares = (
        task.journal.get_or_compute(
            f"openings up to {states[-1]['step']}", lambda: evaluator.openings.rates(task.chat, edits)
        )
        if task.teacher_forced
        else None
    )

    def try_edit(place: int) -> bool:
        index = order[place]
        point, edit = points[index], edits[index]
        measure = partial(evaluator.rate, edit)
        rate = shares[index] if shares else task.journal.get_or_compute(f"rate {point['step']}", measure)
        point |= {"rejected": MOST_UNJUDGED if rate is None else None, "rate": rate}
        if rate is None:
            return False
        if task.preserve is not None:
            preserved = partial(_measure_preserved, evaluator, edit)
            point |= task.journal.get_or_compute(f"held {point['step']}", preserved)
        return is_enough(point, task)

    if budget is None:
        try_in_halves(len(order), try_edit)
    for place, index in enumerate(order):
        if budget is not None and place and points[index]["kl"] > budget:
            points[index]["rejected"] = f"KL is above {budget:g}"
        elif budget is not None:
            try_edit(place)
    return points, edits


def _measure_preserved(evaluator: SearchSplitEvaluator, edit: Edit) -> dict[str, float | None]:
    """Share of the preserve set's search prompts that show the behaviour: edited, and in
    the base.
    """
    task, c = evaluator.task, evaluator.task.config
    preserve = task.preserve
    assert preserve is not None
    base = task.journal.get_or_compute(
        "answers held",
        lambda: task.chat.answer(task.chat.tokens(preserve.search), c.answer_tokens, c.runtime.batch_tokens),
    )
    return {
        "held": evaluator.preserved_rate(edit, base),
        "held_base": evaluator.preserved_rate(None, base),
    }
