"""Cosines between the directions of all layers: a square, layer by layer.

Colour is the size of the cosine; one below 0 has the other colour. A cell is empty where a
direction is 0, so that there is no cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from vectomy.report.charts.heatmap import STEPS
from vectomy.report.charts.svg import element, figure, text
from vectomy.report.tables.numbers import decimal

__all__ = ["cosine_map"]

LEFT, TOP, SIDE = 34.0, 8.0, 300.0
# More cells in a row than this are too small to see; then only every second, third, ... layer is
# drawn.
MOST = 48


def cosine_map(rows: Sequence[Sequence[float]]) -> Markup:
    """The picture, or an empty string without layers. Layer 0 is at the bottom left.

    Args:
        rows: n_layers x n_layers; NaN where there is none.
    """
    if not rows or not rows[0]:
        return Markup("")
    stride = math.ceil(len(rows) / MOST)
    layers = range(0, len(rows), stride)
    cell = SIDE / len(layers)
    parts = []
    for up, row in enumerate(layers):
        for across, column in enumerate(layers):
            if column < len(rows[row]):
                place = LEFT + across * cell, TOP + SIDE - (up + 1) * cell
                parts.append(_cell(rows[row][column], row, column, place, cell))
    step = max(1, 5 // stride) if len(rows) > 6 else 1
    for index in range(0, len(layers), step):
        middle = (index + 0.5) * cell
        parts.append(text(LEFT + middle, TOP + SIDE + 14, layers[index], "tick", "middle"))
        parts.append(text(LEFT - 5, TOP + SIDE - middle + 3.5, layers[index], "tick", "end"))
    parts.append(text(LEFT + SIDE / 2, TOP + SIDE + 28, "layer", "axis", "middle"))
    every = "" if stride == 1 else f" Of {len(rows)} layers, every {stride}th is drawn."
    told = f"Cosines between the directions of {len(rows)} layers, -1 to 1.{every}"
    return figure("cosines", "Cosine between layers", told, (LEFT + SIDE + 6, TOP + SIDE + 34), parts)


def _cell(value: float, row: int, column: int, place: tuple[float, float], size: float) -> Markup:
    box = {"x": place[0], "y": place[1], "width": size - 0.4, "height": size - 0.4}
    if not math.isfinite(value):
        return element("rect", element("title", f"{row} and {column}: no direction"), class_="empty", **box)
    tip = element("title", f"layers {row} and {column}: {decimal(value)}")
    step = min(int(abs(value) * STEPS), STEPS - 1)
    if value >= 0:
        return element("rect", tip, class_=f"q{step}", **box)
    return element("rect", tip, class_="amplified", fill_opacity=0.2 + 0.8 * step / (STEPS - 1), **box)
