"""The rule that takes a point of a frontier, by examples of each case and against a slow oracle."""

import itertools

import pytest

from vectomy.core.errors import SelectionError
from vectomy.search.pareto import choose_point, frontier, try_in_halves

TIER = "unit"

POINTS = [
    {"rate": 0.00, "kl": 0.30},
    {"rate": 0.04, "kl": 0.10},
    {"rate": 0.05, "kl": 0.06},
    {"rate": 0.20, "kl": 0.03},
    {"rate": 0.90, "kl": 0.001},
]


@pytest.mark.parametrize(
    ("target", "budget", "expected"),
    [
        (0.05, None, 2),
        (0.0, None, 0),
        (0.5, None, 3),
        (1.0, None, 4),
        (0.05, 0.05, 3),
        (0.9, 0.2, 1),
        (0.0, 1.0, 0),
    ],
)
def test_the_stated_rule(target: float, budget: float | None, expected: int) -> None:
    assert choose_point(POINTS, target, budget) == (expected, None)


def test_what_is_asked_for_and_not_there_is_said() -> None:
    at, said = choose_point(POINTS[1:], 0.0)
    assert at == 0
    assert "no edit brings the behaviour down to 0%" in str(said)
    at, said = choose_point(POINTS, 0.05, 1e-5)
    assert at == 4
    assert "no edit keeps KL within 1e-05" in str(said)


def test_points_without_numbers_are_left_out() -> None:
    nan = float("nan")
    assert choose_point([{"rate": 0.0, "kl": nan}, {"rate": nan, "kl": 0.0}, POINTS[3]], 0.05)[0] == 2
    with pytest.raises(SelectionError, match="none of the 1 edits"):
        choose_point([{"rate": 0.0, "kl": nan}], 0.05)
    with pytest.raises(SelectionError, match="none of the 0 edits"):
        choose_point([], 0.05)


def test_the_frontier_is_what_no_other_point_betters() -> None:
    grid = [{"rate": r / 4, "kl": k / 4} for r, k in itertools.product(range(5), repeat=2) if r + k >= 3]
    kept = [grid[at] for at in frontier(grid)]

    def bettered(point: dict[str, float]) -> bool:
        return any(o != point and o["rate"] <= point["rate"] and o["kl"] <= point["kl"] for o in grid)

    assert kept == sorted((p for p in grid if not bettered(p)), key=lambda p: p["kl"])
    assert frontier([POINTS[0], POINTS[0]]) == [0]


@pytest.mark.parametrize("count", range(1, 20))
def test_halving_finds_the_first_that_is_enough_in_few_tries(count: int) -> None:
    for first in range(count + 1):
        tried: list[int] = []

        def enough(place: int, first: int = first, tried: list[int] = tried) -> bool:
            tried.append(place)
            return place >= first

        try_in_halves(count, enough)
        assert tried[0] == 0
        assert len(tried) == len(set(tried)) <= 1 + count.bit_length()
        # Where it holds nowhere, the last was tried too.
        assert min((place for place in tried if place >= first), default=count) == first
        assert first < count or count - 1 in tried
