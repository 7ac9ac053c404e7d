"""Numbers by layer (upward) and something else (across), as coloured cells.

Colour is the size of the number; one below 0 has the other colour. A cell without a number is
empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from vectomy.report.charts.heatmap import STEPS
from vectomy.report.charts.svg import element, figure, slug, text
from vectomy.report.tables.numbers import decimal

__all__ = ["value_map"]

LEFT, TOP, SIDE = 40.0, 8.0, 300.0
# More cells in a row than this are too small to see; then only every second, third, ... is drawn.
MOST = 48


def value_map(
    title: str,
    rows: Sequence[Sequence[float]],
    layers: Sequence[int],
    columns: Sequence[int],
    across: str,
    most: float,
) -> Markup:
    """The picture, or an empty string without numbers. The first layer is at the bottom.

    Args:
        rows: layer x column; NaN where there is none.
        across: what the columns are.
        most: the number of the strongest colour.
    """
    if not rows or not rows[0]:
        return Markup("")
    up_step, across_step = math.ceil(len(layers) / MOST), math.ceil(len(columns) / MOST)
    shown, wide = range(0, len(layers), up_step), range(0, len(columns), across_step)
    cell = SIDE / max(len(shown), len(wide))
    bottom, right = TOP + cell * len(shown), LEFT + cell * len(wide)
    parts = []
    for up, row in enumerate(shown):
        for along, column in enumerate(wide):
            value, place = rows[row][column], (LEFT + along * cell, bottom - (up + 1) * cell)
            parts.append(_cell(value, f"layer {layers[row]}, {across} {columns[column]}", most, place, cell))
    for labels, indices, horizontal in ((columns, wide, True), (layers, shown, False)):
        step = max(1, math.ceil(len(indices) / 10))
        for number in range(0, len(indices), step):
            middle, label = (number + 0.5) * cell, labels[indices[number]]
            if horizontal:
                parts.append(text(LEFT + middle, bottom + 14, label, "tick", "middle"))
            else:
                parts.append(text(LEFT - 5, bottom - middle + 3.5, label, "tick", "end"))
    parts.append(text((LEFT + right) / 2, bottom + 28, across, "axis", "middle"))
    thinned = " Not every row and column is drawn." if up_step * across_step > 1 else ""
    told = f"{title}, {len(layers)} layers upward, {across} across.{thinned}"
    return figure(slug(title), title, told, (max(right, LEFT + 120) + 6, bottom + 34), parts)


def _cell(value: float, name: str, most: float, place: tuple[float, float], size: float) -> Markup:
    box = {"x": place[0], "y": place[1], "width": size * 0.97, "height": size * 0.97}
    if not math.isfinite(value):
        return element("rect", element("title", f"{name}: none"), class_="empty", **box)
    tip = element("title", f"{name}: {decimal(value)}")
    step = min(int(abs(value) / most * STEPS), STEPS - 1) if most > 0 else 0
    if value >= 0:
        return element("rect", tip, class_=f"q{step}", **box)
    return element("rect", tip, class_="amplified", fill_opacity=0.2 + 0.8 * step / (STEPS - 1), **box)
