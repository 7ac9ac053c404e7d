"""Numbers as a reader meets them: the same value always in the same words, and absent ones marked
as absent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["ABSENT", "chance", "decimal", "finite", "interval", "percent", "plain", "thousands"]

ABSENT = "–"
MINUS = "−"


def finite(value: object) -> float | None:
    """The value as a float, or None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def decimal(value: object, digits: int = 3) -> str:
    """`digits` significant digits, without an exponent between 0.0001 and a million, with a true
    minus sign.
    """
    number = finite(value)
    if number is None:
        return ABSENT
    if number == 0:
        return "0"
    if not 1e-4 <= abs(number) < 1e6:
        text = f"{number:.{digits - 1}e}"
    else:
        places = digits - 1 - math.floor(math.log10(abs(number)))
        text = f"{number:.{max(places, 0)}f}"
    return text.replace("-", MINUS)


def percent(value: object) -> str:
    """A share in [0, 1] as a percentage with one decimal."""
    number = finite(value)
    return ABSENT if number is None else f"{100 * number:.1f}%".replace("-", MINUS)


def interval(bounds: Sequence[object] | None) -> str:
    """Two shares in [0, 1] as `72.2–87.5%`, or nothing when there is no interval."""
    low, high = bounds if bounds is not None and len(bounds) == 2 else (None, None)
    if finite(low) is None or finite(high) is None:
        return ""
    return f"{percent(low)[:-1]}–{percent(high)}"


def plain(value: object) -> str:
    """A number that someone chose, as they wrote it: 1 and 0.8, not 1.00 and 0.800."""
    number = finite(value)
    return ABSENT if number is None else f"{number:g}".replace("-", MINUS)


def thousands(value: object) -> str:
    """A count with its thousands apart (by a comma, as in English text)."""
    number = finite(value)
    return ABSENT if number is None else f"{number:,.0f}".replace("-", MINUS)


def chance(p: float) -> str:
    """A p value: `= 0.03`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {decimal(p, 2)}"
