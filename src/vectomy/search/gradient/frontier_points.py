"""The points of the gradient search's frontier: stored states at several strengths of the dial,
measured on the search split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from vectomy.core.errors import SelectionError
from vectomy.edits.edit import Edit
from vectomy.search.gradient.edit_objective import EditObjective
from vectomy.search.gradient.parameters import SearchState, scale_state
from vectomy.search.gradient.train_passes import UNJUDGED
from vectomy.search.pareto import choose_point, try_in_halves
from vectomy.search.recipe import Candidate, RecipeInput
from vectomy.search.search_split import SearchSplitEvaluator

__all__ = ["DIAL", "FrontierPoints", "choose", "is_enough", "is_preserved", "list_tried", "measure_points"]

# The reason in scores.json of points that were not generated with.
UNTRIED = "not tried: one of less KL is enough, or one of more KL leaves too much"
# Of points most of whose answers have no verdict.
MOST_UNJUDGED = f"most answers could not be judged: {UNJUDGED}"
# Strengths of the dial at which a state may be taken. What a search learned last is often stronger
# than the target needs, and KL falls faster than the effect (docs/log/gradient-search.md).
DIAL = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3)
# KL grows with this power of the strength, between 0.6 and 1.2: 1.6 in 36 searches of the demo
# model. By it points are ordered, and held against a KL budget, before their KL is measured.
KL_POWER, MARGIN = 1.6, 1.15
# Points tried beyond the least KL that reaches the target rate while too many answers degenerate.
MORE_POINTS = 5
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
            "or give prompts that the model answers in English, or another --judge"
        )
    return tried


def is_coherent(point: Candidate, task: RecipeInput) -> bool:
    """Whether the degenerate answers of a point, beyond the base's, are within --max-degenerate."""
    most, share = task.config.selection.max_degenerate, point.get("degenerate")
    return most is None or share is None or bool(share <= point["degenerate_base"] + most)


def is_reached(point: Candidate, task: RecipeInput) -> bool:
    """Whether a point reaches the target rate and leaves enough on the preserve set."""
    return bool(point["rate"] <= task.config.selection.target_rate and is_preserved(point))


def is_enough(point: Candidate, task: RecipeInput) -> bool:
    return is_reached(point, task) and is_coherent(point, task)


def choose(points: Sequence[Candidate], task: RecipeInput) -> tuple[int, str | None]:
    """The index that the rule of pareto.py chooses, and a note. It chooses among the points that
    leave enough of the behaviour on the preserve set, and of these among those with few degenerate
    answers; a limit that no point keeps is left out, and the note says so.
    """
    limits = task.config.selection
    allowed, notes = list(range(len(points))), []
    rules = (
        (is_preserved, f"no edit leaves {PRESERVED:.0%} of the behaviour on the prompts to keep"),
        (
            partial(is_coherent, task=task),
            "no edit that was tried keeps degenerate answers within --max-degenerate",
        ),
    )
    for rule, missed in rules:
        kept = [index for index in allowed if rule(points[index])]
        notes += [] if kept else [missed]
        allowed = kept or allowed
    chosen, note = choose_point([points[index] for index in allowed], limits.target_rate, limits.kl_budget)
    return allowed[chosen], "; ".join([*notes, *([note] if note else [])]) or None


class FrontierPoints(NamedTuple):
    """Measured points: `rows` are those of scores.json, `edits` and `states` belong to them."""

    rows: list[Candidate]
    edits: list[Edit]
    states: list[SearchState]


class _DialPoint(NamedTuple):
    """A state at a strength of the dial, and its KL, measured or estimated."""

    state: int
    strength: float
    kl: float


def _most_kl(point: _DialPoint) -> float:
    """The largest KL that a point may turn out to have: at strength 1 it is known."""
    return point.kl if point.strength == 1.0 else MARGIN * point.kl


def measure_points(
    objective: EditObjective, evaluator: SearchSplitEvaluator, states: Sequence[SearchState]
) -> FrontierPoints:
    """Measure states on the search split: each at strength 1, and at the strengths of the dial that
    were tried.

    KL is measured for all of them. The behaviour is measured by generating: with a KL budget for
    each state at the largest strength within it; otherwise by bisection over states and strengths,
    until the least KL at which the behaviour is gone is known. If the model is read block by block,
    it is measured by the openings of answers (opening_shares.py), with one read a point. Points
    that were not tried are marked as rejected.
    """
    search = _PointSearch(objective, evaluator, states)
    search.try_points()
    return search.list_points()


class _PointSearch:
    """The points of some states that were tried, in the order of trying."""

    def __init__(
        self, objective: EditObjective, evaluator: SearchSplitEvaluator, states: Sequence[SearchState]
    ) -> None:
        self.objective, self.evaluator, self.states = objective, evaluator, states
        self.task, self.last = objective.task, states[-1]["step"]
        self.rows: dict[tuple[int, float], Candidate] = {}
        edits = [objective.build_edit(state) for state in states]
        self.divergences = self.task.journal.get_or_compute(
            f"damage up to {self.last}", partial(evaluator.divergence, edits)
        )

    def try_points(self) -> None:
        """Measure the behaviour at the points that decide the choice."""
        budget = self.task.config.selection.kl_budget
        points = self._list_dial()
        if budget is None:
            reached = [len(points)]

            def is_place_reached(place: int) -> bool:
                enough = self._try(points[place])
                reached.extend([place] if enough else [])
                return enough

            try_in_halves(len(points), is_place_reached)
            self._try_coherent(points[min(reached) :])
            return
        for place, point in enumerate(points):
            if not place or point.kl <= budget:
                self._try(point)

    def _try_coherent(self, points: Sequence[_DialPoint]) -> None:
        """Try points from the least KL that reaches the target rate on, until one keeps degenerate
        answers within the limit. They do not rise with KL, so there is nothing to bisect.
        """
        for point in points[:MORE_POINTS]:
            reached = self._try(point)
            if reached and is_coherent(self.rows[point.state, point.strength], self.task):
                return

    def list_points(self) -> FrontierPoints:
        """Every state at strength 1, and every other point that was tried, with its KL."""
        tried = [key for key in self.rows if key[1] != 1.0]
        edits = [self._edit(*key) for key in tried]
        measured = (
            self.task.journal.get_or_compute(
                f"damage of the dial up to {self.last}", partial(self.evaluator.divergence, edits)
            )
            if tried
            else []
        )
        damage = {(index, 1.0): value for index, value in enumerate(self.divergences)}
        damage |= dict(zip(tried, measured, strict=True))
        keys = sorted(damage)
        return FrontierPoints(
            [self._row(key, damage[key]) for key in keys],
            [self._edit(*key) for key in keys],
            [self._state(*key) for key in keys],
        )

    def _list_dial(self) -> list[_DialPoint]:
        """The points that may be tried, by rising KL; with a KL budget, one a state."""
        budget = self.task.config.selection.kl_budget
        points = []
        for index, divergence in enumerate(self.divergences):
            row = [_DialPoint(index, s, divergence["kl"] * s**KL_POWER) for s in DIAL]
            within = [point for point in row if budget is None or _most_kl(point) <= budget]
            points += within if budget is None else within[-1:] or row[:1]
        return sorted(points, key=lambda point: point.kl)

    def _try(self, point: _DialPoint) -> bool:
        index, strength = point.state, point.strength
        edit, step = self._edit(index, strength), self.states[index]["step"]
        journal = self.task.journal
        place = str(step) if strength == 1.0 else f"{step} at {strength:g}"
        shares = journal.get_or_compute(f"shares {place}", partial(self._measure_shares, edit))
        rate = shares["rate"]
        row: Candidate = {"rejected": MOST_UNJUDGED if rate is None else None, **shares}
        if rate is not None and self.task.preserve is not None:
            preserved = partial(_measure_preserved, self.evaluator, edit)
            row |= journal.get_or_compute(f"held {place}", preserved)
        self.rows[index, strength] = row
        self.task.log_tried(f"step {place}", rate, point.kl, shares.get("degenerate"))
        return rate is not None and is_reached(row, self.task)

    def _measure_shares(self, edit: Edit) -> dict[str, float | None]:
        if self.task.teacher_forced:
            return {"rate": self.evaluator.openings.rates(self.task.chat, [edit])[0], "degenerate": None}
        shares = self.evaluator.measure(edit)
        return {**shares._asdict(), "degenerate_base": self.evaluator.base_degenerate}

    def _row(self, key: tuple[int, float], divergence: Mapping[str, float]) -> Candidate:
        budget, (index, strength) = self.task.config.selection.kl_budget, key
        untried = UNTRIED
        if budget is not None:
            above = divergence["kl"] > budget
            untried = (
                f"KL is above {budget:g}" if above else "not tried: a larger strength is within the budget"
            )
        return {
            "step": self.states[index]["step"],
            "strength": strength,
            **divergence,
            "writers": len(self._edit(*key).operations),
            **self.rows.get(key, {"rate": None, "rejected": untried}),
        }

    def _state(self, index: int, strength: float) -> SearchState:
        return self.states[index] if strength == 1.0 else scale_state(self.states[index], strength)

    def _edit(self, index: int, strength: float) -> Edit:
        return self.objective.build_edit(self._state(index, strength))


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
