"""Tests of two models on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vectomy.core.json_value import JsonObject

__all__ = ["mcnemar"]


def mcnemar(before: Sequence[bool | None], after: Sequence[bool | None]) -> JsonObject:
    """McNemar's exact test: how many prompts lost and gained a property, and the two-sided p-value.
    A pair in which one is None (not judged) counts nowhere.

    Under the null hypothesis each changed prompt went either way with probability 1/2. With
    n = lost + gained and k the smaller of the two, p = min(1, 2 sum_{i <= k} C(n, i) / 2^n).
    Source: McNemar 1947, with the binomial distribution instead of chi squared.
    """
    pairs = [
        (was, now) for was, now in zip(before, after, strict=True) if was is not None and now is not None
    ]
    lost = sum(was and not now for was, now in pairs)
    gained = sum(now and not was for was, now in pairs)
    changed, fewer = lost + gained, min(lost, gained)
    # Integers up to the one division: exact, without overflow.
    tail = 2 * sum(math.comb(changed, i) for i in range(fewer + 1))
    return {"gained": gained, "lost": lost, "p": min(1.0, tail / 2**changed) if tail < 2**changed else 1.0}
