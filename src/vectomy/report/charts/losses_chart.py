"""What was minimised, step by step, each part on one logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from vectomy.core.results import LossRow
from vectomy.report.charts.svg import decades, element, figure, linear, logarithmic, text, ticks
from vectomy.report.tables.numbers import decimal, finite, plain

__all__ = ["losses_chart"]

WIDTH, LEFT, RIGHT = 340.0, 46.0, 10.0
TOP, BOTTOM = 26.0, 180.0
# Below this share of the largest a loss is drawn at the low end.
DEPTH = 1e-5
PARTS = (
    ("change", "behaviour", "line positive"),
    ("keep", "damage", "line negative"),
    ("hold", "prompts to keep", "line keep dotted"),
)


def losses_chart(
    history: Sequence[LossRow], shown: Sequence[tuple[str, str, str]] = PARTS, taken: float | None = None
) -> Markup:
    """The chart of `history`, or an empty string without one; `shown` are fields of its rows, with
    their names and classes, `taken` the step that was chosen.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for key, _, _ in shown:
        known = [
            (step, value)
            for row in history
            if (step := finite(row.step)) is not None and (value := finite(getattr(row, key))) is not None
        ]
        if known:
            lines[key] = known
    values = [value for line in lines.values() for _, value in line if value > 0]
    if not values:
        return Markup("")
    high = max(values)
    low = max(min(values), DEPTH * high)
    low = low if low < high else high / 10
    last = max(step for line in lines.values() for step, _ in line)
    x, y = linear((0, max(last, 1.0)), (LEFT + 4, WIDTH - RIGHT - 4)), logarithmic((low, high), (BOTTOM, TOP))
    parts = []
    for mark in decades(low, high):
        parts.append(element("path", d=f"M{LEFT} {y(mark):.2f}H{WIDTH - RIGHT}", class_="guide"))
        parts.append(text(LEFT - 5, y(mark) + 3.5, plain(mark), "tick", "end"))
    parts += [text(x(mark), 196, plain(mark), "tick", "middle") for mark in ticks(0, max(last, 1.0), 6)]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, 212, "step", "axis", "middle"))
    if taken is not None and 0 <= taken <= last + 1:
        tip = element("title", f"chosen: after {plain(taken)} steps")
        parts.append(element("path", tip, d=f"M{x(min(taken, last)):.2f} {TOP}V{BOTTOM}", class_="here"))
    offset, told = LEFT, []
    for key, name, class_ in shown:
        if key in lines:
            line = lines[key]
            parts.append(
                element("path", d="M" + "L".join(f"{x(a):.2f} {y(b):.2f}" for a, b in line), class_=class_)
            )
            parts.append(element("path", d=f"M{offset:.2f} 11h14", class_=class_))
            parts.append(text(offset + 19, 14.5, name, "label strong"))
            offset += 34 + 6.0 * len(name)
            told.append(f"{name}: {decimal(line[0][1])} at first, {decimal(line[-1][1])} at last")
    return figure("losses", "Losses by step", "; ".join(told) + ".", (WIDTH, 222), parts)
