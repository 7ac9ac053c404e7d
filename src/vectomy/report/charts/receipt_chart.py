"""What the receipt measured: the part of the stream that still lies along the removed directions,
layer by layer.
"""

from __future__ import annotations

import math

from markupsafe import Markup

from vectomy.core.results import ReceiptRecord
from vectomy.report.charts.svg import decades, element, figure, linear, logarithmic, text
from vectomy.report.tables.numbers import decimal, finite, plain

__all__ = ["left_by_layer"]

WIDTH, LEFT, RIGHT = 340.0, 46.0, 10.0
TOP, BOTTOM = 26.0, 150.0
# What is smaller is drawn at the low end.
LEAST = 1e-9


def left_by_layer(receipt: ReceiptRecord | None) -> Markup:
    """A dot for the stream that enters the first block and for what leaves each one; empty where it
    was not measured.
    """
    shares = [finite(value) for value in (receipt.projection if receipt else None) or ()]
    known = [(index, value) for index, value in enumerate(shares) if value is not None]
    if not known:
        return Markup("")
    high = 10.0 ** math.ceil(math.log10(max(max(value for _, value in known), 10 * LEAST)))
    low = 10.0 ** min(
        math.floor(math.log10(max(min(value for _, value in known), LEAST))), math.log10(high) - 1
    )
    x, y = linear((-0.5, len(shares) - 0.5), (LEFT, WIDTH - RIGHT)), logarithmic((low, high), (BOTTOM, TOP))
    parts = [text(LEFT, 12, "largest share of the stream along the directions", "label strong")]
    for mark in decades(low, high):
        parts.append(element("path", d=f"M{LEFT} {y(mark):.2f}H{WIDTH - RIGHT}", class_="guide"))
        parts.append(text(LEFT - 5, y(mark) + 3.5, plain(mark), "tick", "end"))
    for index, value in known:
        tip = element("title", f"{_place(index)}: {decimal(value)}")
        parts.append(element("circle", tip, cx=x(index), cy=y(value), r=2.6, class_="dot"))
    step = 5 if len(shares) <= 49 else 10
    parts.append(text(x(0), BOTTOM + 14, "in", "tick", "middle"))
    parts += [
        text(x(index + 1), BOTTOM + 14, index, "tick", "middle")
        for index in range(0, len(shares) - 1, step)
        if index
    ]
    parts.append(
        text((LEFT + WIDTH - RIGHT) / 2, BOTTOM + 30, "layer (logarithmic upward)", "axis", "middle")
    )
    worst = max(known, key=lambda pair: pair[1])
    told = f"Largest |r . x| / |x| by layer; the most is {decimal(worst[1])}, {_place(worst[0])}."
    return figure(
        "left-by-layer", "What is left of the direction, by layer", told, (WIDTH, BOTTOM + 38), parts
    )


def _place(index: int) -> str:
    return "before the first block" if index == 0 else f"behind layer {index - 1}"
