"""Two measured quantities of each subject against one another, with intervals, dials as lines, and
a name at every mark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from vectomy.report.charts.svg import Scale, element, figure, text

__all__ = ["Axis", "Mark", "scatter"]

WIDTH, LEFT, RIGHT = 340.0, 40.0, 12.0
TOP, BOTTOM = 26.0, 232.0
CHARACTER, LINE = 6.3, 11.0
# Possible places of a name near its mark: the shift of its anchor, and the end that is there. The
# first is preferred.
PLACES = [
    place
    for far in (0.0, 9.0, 20.0, 32.0)
    for place in (
        (8 + far, 3.5, "start"),
        (-8 - far, 3.5, "end"),
        (0.0, -9 - far, "middle"),
        (0.0, 17 + far, "middle"),
        (7 + far / 2, -7 - far, "start"),
        (7 + far / 2, 14 + far, "start"),
        (-7 - far / 2, -7 - far, "end"),
        (-7 - far / 2, 14 + far, "end"),
    )
]

# Names further away than this are tied to their mark by a line.
NEAR = 20.0

Interval = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """A subject in the picture; `kind` chooses its sign, `told` is what it says in words."""

    name: str
    label: str
    kind: str
    x: float
    y: float
    x_interval: Interval | None
    y_interval: Interval | None
    told: str


@dataclass(frozen=True)
class Axis:
    """`scale` takes a value to its place, `marks` are the places with a number; `breaks` is where
    the axis is broken.
    """

    title: str
    scale: Scale
    marks: Sequence[tuple[float, str]]
    breaks: float | None = None


def scatter(
    name: str,
    title: str,
    description: str,
    marks: Sequence[Mark],
    lines: Sequence[Sequence[str]],
    x: Axis,
    y: Axis,
    band: float | None = None,
) -> Markup:
    """The picture.

    Args:
        lines: names of marks that are connected, in their order; those that are not drawn are
            passed over.
        band: a value of x up to which a difference is noise.
    """
    by_name = {mark.name: mark for mark in marks}
    drawn = [
        [(x.scale(by_name[each].x), y.scale(by_name[each].y)) for each in line if each in by_name]
        for line in lines
    ]
    parts = _frame(x, y)
    if band is not None and x.scale(band) > LEFT:
        box = {"x": LEFT, "y": TOP, "width": x.scale(band) - LEFT, "height": BOTTOM - TOP}
        parts.append(element("rect", element("title", "noise floor"), class_="floor", **box))
    for line in drawn:
        if len(line) > 1:
            path = "L".join(f"{across:.2f} {up:.2f}" for across, up in line)
            parts.append(element("path", d=f"M{path}", class_="line dial"))
    parts += [_whiskers(mark, x.scale, y.scale) for mark in marks]
    parts += [_sign(mark, x.scale(mark.x), y.scale(mark.y)) for mark in marks]
    parts += _labels(marks, drawn, x.scale, y.scale)
    return figure(name, title, description, (WIDTH, BOTTOM + 46), parts)


def _frame(x: Axis, y: Axis) -> list[Markup]:
    parts = []
    for value, words in y.marks:
        parts.append(element("path", d=f"M{LEFT} {y.scale(value):.2f}H{WIDTH - RIGHT}", class_="guide"))
        parts.append(text(LEFT - 5, y.scale(value) + 3.5, words, "tick", "end"))
    for value, words in x.marks:
        parts.append(element("path", d=f"M{x.scale(value):.2f} {BOTTOM}v4", class_="axis-line"))
        parts.append(text(x.scale(value), BOTTOM + 16, words, "tick", "middle"))
    parts.append(element("path", d=f"M{LEFT} {BOTTOM}H{WIDTH - RIGHT}", class_="axis-line"))
    if x.breaks is not None:
        parts.append(
            element("path", d=f"M{x.breaks - 4:.2f} {BOTTOM + 5}l4 -10m2 10l4 -10", class_="axis-line")
        )
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, BOTTOM + 34, x.title, "axis", "middle"))
    parts.append(text(4, 12, y.title, "label strong"))
    return parts


def _whiskers(mark: Mark, x: Scale, y: Scale) -> Markup:
    path = ""
    if mark.x_interval is not None:
        path += f"M{x(mark.x_interval[0]):.2f} {y(mark.y):.2f}H{x(mark.x_interval[1]):.2f}"
    if mark.y_interval is not None:
        path += f"M{x(mark.x):.2f} {y(mark.y_interval[0]):.2f}V{y(mark.y_interval[1]):.2f}"
    return element("path", d=path, class_=f"whisker thin {mark.kind}") if path else Markup("")


def _sign(mark: Mark, x: float, y: float) -> Markup:
    """A disc for an edit, a ring for the base, a square for a checkpoint, a triangle for an
    adapter, a diamond for the control, a cross for the noise floor.
    """
    tip, class_ = element("title", mark.told), f"sign {mark.kind}"
    if mark.kind in ("edit", "base"):
        return element("circle", tip, cx=x, cy=y, r=4.5, class_=class_)
    shapes = {
        "random": f"M{x:.2f} {y - 6.2:.2f}l6.2 6.2l-6.2 6.2l-6.2 -6.2z",
        "noise": f"M{x - 4.5:.2f} {y - 4.5:.2f}l9 9m0 -9l-9 9",
        "adapter": f"M{x:.2f} {y - 5.5:.2f}l5.5 9.5h-11z",
    }
    return element(
        "path", tip, d=shapes.get(mark.kind, f"M{x - 4.5:.2f} {y - 4.5:.2f}h9v9h-9z"), class_=class_
    )


def _labels(
    marks: Sequence[Mark], lines: Sequence[Sequence[tuple[float, float]]], x: Scale, y: Scale
) -> list[Markup]:
    """A name beside each mark, where it covers least of what is drawn already; the crowded ones
    come last.
    """
    taken = [_around(x(mark.x), y(mark.y)) for mark in marks]
    for mark in marks:
        if mark.y_interval is not None:
            taken.append((x(mark.x) - 3, y(mark.y_interval[1]), x(mark.x) + 3, y(mark.y_interval[0])))
        if mark.x_interval is not None:
            taken.append((x(mark.x_interval[0]), y(mark.y) - 3, x(mark.x_interval[1]), y(mark.y) + 3))
    for line in lines:
        for start, end in pairwise(line):
            taken += _along(start, end)
    drawn = []
    for mark in sorted(marks, key=lambda mark: mark.kind in ("noise", "base")):
        point = x(mark.x), y(mark.y)
        boxes = [(_box(point, mark.label, place), place) for place in PLACES]
        box, (dx, dy, anchor) = min(
            boxes, key=lambda choice: _cost(choice[0], taken) + 4 * PLACES.index(choice[1])
        )
        taken += [_wider(box)] * 3
        if math.hypot(dx, dy) > NEAR:
            end = min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3])
            drawn.append(
                element(
                    "path", d=f"M{point[0]:.2f} {point[1]:.2f}L{end[0]:.2f} {end[1]:.2f}", class_="leader"
                )
            )
        drawn.append(text(point[0] + dx, point[1] + dy, mark.label, f"label name {mark.kind}", anchor))
    return drawn


def _along(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Small boxes that cover a line."""
    steps = max(1, round(math.dist(start, end) / 5))
    places = [
        (start[0] + (end[0] - start[0]) * index / steps, start[1] + (end[1] - start[1]) * index / steps)
        for index in range(steps + 1)
    ]
    return [(across - 2.5, up - 2.5, across + 2.5, up + 2.5) for across, up in places]


def _around(x: float, y: float) -> Box:
    return x - 6, y - 6, x + 6, y + 6


def _box(point: tuple[float, float], words: str, place: tuple[float, float, str]) -> Box:
    width = CHARACTER * len(words)
    left = point[0] + place[0] - {"start": 0.0, "middle": width / 2, "end": width}[place[2]]
    base = point[1] + place[1]
    return left, base - LINE + 2, left + width, base + 2


def _wider(box: Box) -> Box:
    return box[0] - 2, box[1], box[2] + 2, box[3]


def _cost(box: Box, taken: Sequence[Box]) -> float:
    """Area that is covered twice, and what reaches over the frame ten times."""
    over = (
        max(0.0, LEFT - box[0])
        + max(0.0, box[2] - WIDTH)
        + max(0.0, TOP - 12 - box[1])
        + max(0.0, box[3] - BOTTOM)
    )
    covered = sum(
        (min(box[2], other[2]) - max(box[0], other[0])) * (min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
        if other[0] < box[2] and box[0] < other[2] and other[1] < box[3] and box[1] < other[3]
    )
    return covered + 10 * LINE * over
