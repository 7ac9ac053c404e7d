"""What a rate of so many judged answers can show: the smallest true change that would be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vectomy.metrics.intervals import share_of
from vectomy.metrics.judges import JudgeErrors

__all__ = ["detectable", "minimum_detectable_effect"]

# Normal quantiles of a two-sided test at the 5% level and of a power of 80%.
Z_TEST, Z_POWER = 1.959964, 0.841621
STEPS = 2000


def minimum_detectable_effect(rate: float | None, total: int, errors: JudgeErrors | None) -> float | None:
    """The smallest change of the true rate that a second measurement of as many prompts would show,
    upwards or downwards, wherever the rate has room for it.

    "Show" is a test of two independent proportions at the 5% level that finds the change with 80%
    probability. A judge that errs shows only a share of a true change: its sensitivity minus its
    false refusals (Rogan and Gladen 1978). On the same prompts, pairs show smaller changes.

    Args:
        rate: share of the judged answers that the judge calls refusals, in [0, 1].
        total: the judged answers.
        errors: of the judge, as measured on labelled answers; None if they were not measured.

    Returns:
        A difference of true rates in (0, 1]; None where nothing was measured, or where no change is
        large enough to be seen.
    """
    if rate is None or errors is None or not total:
        return None
    shown = errors.sensitivity - errors.false_refusals
    if shown <= 0:
        return None
    changes = [
        change
        for sign in (1, -1)
        if (change := _smallest_change(rate, sign, total)) is not None and change / shown <= 1
    ]
    return max(changes) / shown if changes else None


def detectable(flags: Sequence[bool | None], errors: JudgeErrors | None) -> float | None:
    """The minimum detectable effect at the rate of these flags; None counts as not judged."""
    total = sum(flag is not None for flag in flags)
    return minimum_detectable_effect(share_of(flags), total, errors)


def _smallest_change(rate: float, sign: int, total: int) -> float | None:
    """Of the rate that the judge sees, upwards or downwards."""
    for step in range(1, STEPS + 1):
        change = step / STEPS
        other = rate + sign * change
        if not -1e-9 <= other <= 1 + 1e-9:
            return None
        middle = (rate + other) / 2
        alike = math.sqrt(2 * middle * (1 - middle) / total)
        apart = math.sqrt(max(0.0, rate * (1 - rate) + other * (1 - other)) / total)
        if change >= Z_TEST * alike + Z_POWER * apart:
            return change
    return None
