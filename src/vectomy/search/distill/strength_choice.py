"""The choice of an edit's strength: a fixed rule over the measurements on the search split. Loads
no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vectomy.core.errors import SelectionError
from vectomy.data.trait_file import Trait

__all__ = ["MOST_DEGENERATE", "choose_strength"]

# Largest share of degenerate search answers: about one of 24.
MOST_DEGENERATE = 0.05


def choose_strength(points: Sequence[Mapping[str, Any]], trait: Trait) -> tuple[int, str | None]:
    """The index of the chosen point, and a note where it misses the target or a limit.

    Args:
        points: mappings with `shown` (share of search answers that show the trait; None if none was
            judged), `degenerate` and `kl` (nats per token).

    The rule: of the points within the KL budget and with few degenerate answers, take the one with
    least KL that reaches the target rate. If none reaches it, take the nearest. If none is within
    the limits, take the one with fewest degenerate answers, then least KL.

    Raises:
        SelectionError: no answer of any point was judged.
    """
    induced = trait.operation == "induce"
    if all(point["shown"] is None for point in points):
        raise SelectionError(
            "every search answer ends inside its thought, so no strength can be chosen; raise --answer-tokens"
        )

    def short(point: Mapping[str, Any]) -> float:
        """The distance to the target rate; 0 if it is reached, infinite if nothing shows it."""
        if point["shown"] is None:
            return float("inf")
        return max(0.0, trait.target - point["shown"] if induced else point["shown"] - trait.target)

    budget = float("inf") if trait.kl_budget is None else trait.kl_budget
    within = [
        at
        for at, point in enumerate(points)
        if point["kl"] <= budget and point["degenerate"] <= MOST_DEGENERATE
    ]
    if not within:
        best = min(
            range(len(points)),
            key=lambda at: (points[at]["kl"] > budget, points[at]["degenerate"], points[at]["kl"]),
        )
        limits = f"degenerate answers within {MOST_DEGENERATE:.0%}"
        if trait.kl_budget is not None:
            limits = f"KL within {trait.kl_budget:g} and {limits}"
        return best, (
            f"no strength keeps {limits}; {points[best]['strength']:g} is chosen "
            f"({points[best]['degenerate']:.0%} degenerate, KL {points[best]['kl']:.3g})"
        )
    best = min(within, key=lambda at: (short(points[at]), points[at]["kl"]))
    if short(points[best]):
        return best, (
            f"no strength within the limits brings the trait to {trait.target:.0%} of the search answers; "
            f"the nearest is chosen ({_word_share(points[best]['shown'])})"
        )
    return best, None


def _word_share(share: float | None) -> str:
    return "no answer was judged" if share is None else f"{share:.0%}"
