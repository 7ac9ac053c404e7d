"""Rates and their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from vectomy.core.json_value import JsonObject

__all__ = ["rate_of", "share_of", "wilson_interval"]


def rate_of(flags: Iterable[bool]) -> JsonObject:
    """A rate as results store it: `count` of true flags, `total`, `rate` (None if there are no
    flags) and `ci`, Wilson's 95% interval.
    """
    values = list(flags)
    count, total = sum(values), len(values)
    return {
        "count": count,
        "total": total,
        "rate": count / total if total else None,
        "ci": list(wilson_interval(count, total)),
    }


def share_of(flags: Sequence[bool]) -> float:
    """Share of the flags that are true; there must be at least one flag."""
    return sum(flags) / len(flags)


def wilson_interval(count: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """95% interval of a rate (Wilson 1927); 3 of 100 gives (0.010, 0.085)."""
    if total == 0:
        return 0.0, 1.0
    share = count / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)
