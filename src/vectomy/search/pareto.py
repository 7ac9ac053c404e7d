"""Which point of a frontier of behaviour against damage is taken. A stated rule, never a choice by
hand. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vectomy.core.errors import SelectionError

__all__ = ["choose_point", "frontier", "try_in_halves"]


def choose_point(
    points: Sequence[Mapping[str, Any]], target_rate: float, kl_budget: float | None = None
) -> tuple[int, str | None]:
    """The place of the chosen point, and a sentence where it misses what was asked for.

    Args:
        points: mappings with `rate` (share of positive search prompts that still show the
            behaviour) and `kl` (nats).
        target_rate: without a budget, the point of least KL among those that reach it is taken.
        kl_budget: with it, the point of lowest rate among those whose KL is within it.

    Of points that the rule holds equal the one of least KL is taken, then the first. Where none
    fits, the nearest is.

    Raises:
        SelectionError: there is no point with finite numbers.
    """
    known = [
        at for at, point in enumerate(points) if 0 <= point["rate"] <= 1 and 0 <= point["kl"] < float("inf")
    ]
    if not known:
        raise SelectionError(
            f"none of the {len(points)} edits that were tried has finite numbers; lower the strengths, or use --dtype float32"
        )
    if kl_budget is not None:
        within = [at for at in known if points[at]["kl"] <= kl_budget]
        if within:
            return min(within, key=lambda at: (points[at]["rate"], points[at]["kl"])), None
        best = min(known, key=lambda at: points[at]["kl"])
        return (
            best,
            f"no edit keeps KL within {kl_budget:g}; taken is the one of least KL ({points[best]['kl']:.3g})",
        )
    reached = [at for at in known if points[at]["rate"] <= target_rate]
    if reached:
        return min(reached, key=lambda at: points[at]["kl"]), None
    best = min(known, key=lambda at: (points[at]["rate"], points[at]["kl"]))
    return best, (
        f"no edit brings the behaviour down to {target_rate:.0%} of the positive search prompts; taken is the one that leaves least "
        f"({points[best]['rate']:.0%})"
    )


def frontier(points: Sequence[Mapping[str, Any]]) -> list[int]:
    """Places of the points that no other one betters in rate and KL both, by rising KL; of equal
    ones the first.
    """
    kept: list[int] = []
    for at in sorted(range(len(points)), key=lambda at: (points[at]["kl"], points[at]["rate"], at)):
        if not kept or points[at]["rate"] < points[kept[-1]]["rate"]:
            kept.append(at)
    return kept


def try_in_halves(count: int, enough: Callable[[int], bool]) -> None:
    """Call `enough` for the first of `count` places, then for as few more as tell the first at
    which it holds, if it holds at all that follow it as well: about log2(count) of them, down to
    the last where it holds nowhere.
    """
    low, high, place = 0, count, 0
    while low < high:
        low, high = (low, place) if enough(place) else (place + 1, high)
        place = (low + high) // 2
