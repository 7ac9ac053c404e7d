"""McNemar's exact test against values worked out by hand."""

import math

import pytest

from vectomy.metrics.mcnemar import mcnemar

TIER = "unit"


def flags(*counts: int) -> tuple[list[bool], list[bool]]:
    """(before, after) of prompts in the order yes-yes, lost, gained, no-no."""
    both, lost, gained, neither = counts
    before = [True] * both + [True] * lost + [False] * gained + [False] * neither
    return before, [True] * both + [False] * lost + [True] * gained + [False] * neither


@pytest.mark.parametrize(
    ("counts", "p"),
    [
        ((3, 0, 0, 3), 1.0),
        ((0, 1, 0, 5), 1.0),
        ((0, 6, 0, 0), 2 / 64),
        ((2, 0, 6, 1), 2 / 64),
        # k = 1 of 6: 2 (1 + 6) / 64.
        ((0, 5, 1, 0), 14 / 64),
        ((4, 3, 3, 4), 1.0),
        # k = 2 of 10: 2 (1 + 10 + 45) / 1024.
        ((9, 8, 2, 9), 112 / 1024),
    ],
)
def test_mcnemar_against_values_by_hand(counts: tuple[int, ...], p: float) -> None:
    found = mcnemar(*flags(*counts))
    assert found == {"lost": counts[1], "gained": counts[2], "p": pytest.approx(p, rel=1e-12)}


def test_mcnemar_of_very_many_prompts_is_finite_and_does_not_care_for_the_side() -> None:
    one, other = mcnemar(*flags(0, 1400, 1300, 0)), mcnemar(*flags(0, 1300, 1400, 0))
    assert one["p"] == other["p"]
    # The normal approximation with its continuity correction, good to three digits at this size.
    assert one["p"] == pytest.approx(math.erfc((100 - 1) / math.sqrt(2700) / math.sqrt(2)), rel=1e-2)
    assert mcnemar(*flags(0, 5000, 0, 0))["p"] < 1e-300


def test_what_is_not_judged_is_in_no_pair() -> None:
    before, after = flags(2, 6, 1, 3)
    assert mcnemar([*before, None, True, None], [*after, True, None, None]) == mcnemar(before, after)
