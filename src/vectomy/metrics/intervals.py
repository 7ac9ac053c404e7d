"""Rates and their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vectomy.core.json_value import JsonObject

__all__ = ["rate_of", "share_of", "share_of_most", "wilson_interval"]


def rate_of(flags: Iterable[bool | None]) -> JsonObject:
    """A rate as results store it: `count` of true flags, `total`, `rate` (None if there are no
    flags) and `ci`, Wilson's 95% interval. Flags of None are in neither: their number is
    `not_judged`, which is absent if there are none.
    """
    given = list(flags)
    values = [flag for flag in given if flag is not None]
    unjudged = len(given) - len(values)
    count, total = sum(values), len(values)
    return {
        "count": count,
        "total": total,
        "rate": count / total if total else None,
        "ci": list(wilson_interval(count, total)),
        **({"not_judged": unjudged} if unjudged else {}),
    }


def share_of(flags: Sequence[bool | None]) -> float | None:
    """Share of the flags that are true, without those of None (not judged); None if no flag is
    left.
    """
    values = [flag for flag in flags if flag is not None]
    return sum(values) / len(values) if values else None


def share_of_most(flags: Sequence[bool | None]) -> float | None:
    """`share_of`, or None if more than half of the flags are None: the rest may be an exception."""
    return share_of(flags) if 2 * sum(flag is not None for flag in flags) >= len(flags) else None


def wilson_interval(count: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """95% interval of a rate (Wilson 1927); 3 of 100 gives (0.010, 0.085)."""
    if total == 0:
        return 0.0, 1.0
    share = count / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)
