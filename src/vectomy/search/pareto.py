"""The rule that chooses a point from a frontier of behaviour against KL. Nothing is chosen by hand.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vectomy.core.errors import SelectionError

__all__ = ["choose_point", "frontier", "try_in_halves"]


def choose_point(
    points: Sequence[Mapping[str, Any]], target_rate: float, kl_budget: float | None = None
) -> tuple[int, str | None]:
    """The index of the chosen point, and a note if it misses the target or the budget.

    Args:
        points: mappings with `rate` (share of positive search prompts that still show the
            behaviour) and `kl` (nats).
        target_rate: without a budget, the least KL among the points that reach this rate is chosen.
        kl_budget: with it, the lowest rate among the points within this KL is chosen.

    Ties go to the least KL, then to the first point. If no point qualifies, the nearest is chosen.

    Raises:
        SelectionError: there is no point with finite numbers.
    """
    known = [
        at for at, point in enumerate(points) if 0 <= point["rate"] <= 1 and 0 <= point["kl"] < float("inf")
    ]
    if not known:
        raise SelectionError(
            f"none of the {len(points)} edits that were tried has finite measurements; lower the strengths, "
            "or use --dtype float32"
        )
    if kl_budget is not None:
        within = [at for at in known if points[at]["kl"] <= kl_budget]
        if within:
            return min(within, key=lambda at: (points[at]["rate"], points[at]["kl"])), None
        best = min(known, key=lambda at: points[at]["kl"])
        return (
            best,
            f"no edit keeps KL within {kl_budget:g}; the least KL is chosen ({points[best]['kl']:.3g})",
        )
    reached = [at for at in known if points[at]["rate"] <= target_rate]
    if reached:
        return min(reached, key=lambda at: points[at]["kl"]), None
    best = min(known, key=lambda at: (points[at]["rate"], points[at]["kl"]))
    return best, (
        f"no edit brings the behaviour down to {target_rate:.0%} of the positive search prompts; the lowest "
        "rate is chosen "
        f"({points[best]['rate']:.0%})"
    )


def frontier(points: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the points that no other point beats in both rate and KL, by rising KL; of equal
    points the first.
    """
    best: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i]["kl"], points[i]["rate"], i)):
        if not best or points[index]["rate"] < points[best[-1]]["rate"]:
            best.append(index)
    return best


def try_in_halves(count: int, enough: Callable[[int], bool]) -> None:
    """Find the first of `count` places at which `enough` holds, by bisection from the first place.

    It assumes that `enough` also holds at all later places, and calls it about log2(count) times.
    If it holds nowhere, the last place is tried too.
    """
    low, high, place = 0, count, 0
    while low < high:
        low, high = (low, place) if enough(place) else (place + 1, high)
        place = (low + high) // 2
