"""The order in which the gradient search tries its start directions."""

from __future__ import annotations

import pytest

from vectomy.search.gradient.start_directions import TIED, order_starts

TIER = "unit"


def test_the_deepest_of_starts_that_are_as_good_comes_first() -> None:
    """The losses of the demo model's six layers in bfloat16: two are equal to a thousandth, and
    rounding is not to decide.
    """
    losses = [0.674, 0.471, 0.398, 0.3174, 0.472, 0.3177]
    assert order_starts(losses) == [5, 3, 2, 1, 4, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_first_start_is_the_same_under_rounding(seed: int) -> None:
    losses = [0.674, 0.471, 0.3174, 0.3177]
    rounded = [loss * (1 + 0.02 * ((seed * 7 + index * 3) % 5 - 2)) for index, loss in enumerate(losses)]
    assert order_starts(rounded)[0] == 3


def test_a_start_that_is_clearly_worse_is_not_tied() -> None:
    assert order_starts([1.0, TIED * 1.01]) == [0, 1]
    assert order_starts([1.0, TIED * 0.99]) == [1, 0]
