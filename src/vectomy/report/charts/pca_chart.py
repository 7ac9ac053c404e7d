"""The two prompt sets on their first two principal components, and where the direction points among
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from vectomy.core.results import PrincipalPlane
from vectomy.report.charts.svg import element, figure, linear, text, ticks
from vectomy.report.tables.behaviour_effect import SIDES
from vectomy.report.tables.numbers import decimal, finite, percent, plain

__all__ = ["pca_chart"]

WIDTH, LEFT, RIGHT = 340.0, 40.0, 10.0
TOP, BOTTOM = 26.0, 180.0
# Below this cosine with the plane the direction stands upright on it, and an arrow would say
# nothing.
FLAT = 0.05
ARROW = 52.0


def pca_chart(plane: PrincipalPlane, names: Mapping[str, str] = SIDES, suffix: str = "") -> Markup:
    """The chart, or an empty string for a plane without points. Both axes have one scale, so that
    angles are true.

    Args:
        suffix: of the ids in the picture, where a page has several planes.
    """
    sets = {"positive": _placed(plane.positive), "negative": _placed(plane.negative)}
    every = [place for places in sets.values() for place in places]
    if not every:
        return Markup("")
    middle, half = zip(*(_extent([place[axis] for place in every]) for axis in range(2)), strict=True)
    wide, high = (WIDTH - RIGHT - LEFT) / 2 - 6, (BOTTOM - TOP) / 2 - 6
    unit = max(half[0] / wide, half[1] / high) or 1.0
    edges = [
        (middle[axis] - unit * reach, middle[axis] + unit * reach) for axis, reach in enumerate((wide, high))
    ]
    x, y = linear(edges[0], (LEFT + 6, WIDTH - RIGHT - 6)), linear(edges[1], (BOTTOM - 6, TOP + 6))
    parts = []
    for mark in ticks(*edges[1], 4):
        parts.append(element("path", d=f"M{LEFT} {y(mark):.2f}H{WIDTH - RIGHT}", class_="guide"))
        parts.append(text(LEFT - 5, y(mark) + 3.5, plain(mark), "tick", "end"))
    parts += [text(x(mark), BOTTOM + 14, plain(mark), "tick", "middle") for mark in ticks(*edges[0], 6)]
    shares = [percent(share) for share in [*plane.explained, None, None][:2]]
    parts.append(
        text(
            (LEFT + WIDTH - RIGHT) / 2,
            BOTTOM + 30,
            f"first component ({shares[0]} of the variance)",
            "axis",
            "middle",
        )
    )
    offset = LEFT
    for side, places in sets.items():
        for across, up in places:
            parts.append(element("circle", cx=x(across), cy=y(up), r=2.7, class_=f"place {side}"))
        parts.append(element("circle", cx=offset + 5, cy=10.5, r=3, class_=f"place {side}"))
        parts.append(text(offset + 13, 14.5, names[side], f"label {side} strong"))
        offset += 74
    parts += _arrow(plane.direction, (x(middle[0]), y(middle[1])))
    parts.append(text(WIDTH - RIGHT, 14.5, f"up: second ({shares[1]})", "label", "end"))
    told = "; ".join(
        f"{names[side]}: {len(places)} prompts, "
        f"centred at {decimal(_mean(places, 0))}, {decimal(_mean(places, 1))}"
        for side, places in sets.items()
        if places
    )
    title = "Both sets in their principal plane"
    title = title if plane.layer is None else f"{title} at layer {plane.layer}"
    return figure(f"plane{suffix}", title, f"{told}.", (WIDTH, BOTTOM + 40), parts)


def _arrow(direction: Sequence[float | None], origin: tuple[float, float]) -> list[Markup]:
    """From the middle of all, the part of the direction that lies in the plane, by its cosine with
    it.
    """
    parts = [finite(part) for part in direction]
    if len(parts) != 2 or parts[0] is None or parts[1] is None or math.hypot(parts[0], parts[1]) < FLAT:
        return []
    across, up = ARROW * parts[0], -ARROW * parts[1]
    length = math.hypot(across, up)
    # From the tip of the arrow to the two ends of its head.
    back, side = (-5 * across / length, -5 * up / length), (3.5 * up / length, -3.5 * across / length)
    left, right = (back[0] + side[0], back[1] + side[1]), (back[0] - side[0], back[1] - side[1])
    shaft = f"M{origin[0]:.2f} {origin[1]:.2f}l{across:.2f} {up:.2f}"
    head = f"m{left[0]:.2f} {left[1]:.2f}l{-left[0]:.2f} {-left[1]:.2f}l{right[0]:.2f} {right[1]:.2f}"
    title = element(
        "title", f"the direction; its cosine with the plane is {decimal(math.hypot(parts[0], parts[1]))}"
    )
    return [
        element("path", d=shaft + head, class_="pointer behind"),
        element("path", title, d=shaft + head, class_="pointer"),
    ]


def _placed(places: Sequence[Sequence[float | None]]) -> list[tuple[float, float]]:
    points = [(finite(place[0]), finite(place[1])) for place in places if len(place) == 2]
    return [(across, up) for across, up in points if across is not None and up is not None]


def _extent(values: list[float]) -> tuple[float, float]:
    """The middle, and half of the width."""
    return (max(values) + min(values)) / 2, (max(values) - min(values)) / 2


def _mean(places: list[tuple[float, float]], axis: int) -> float:
    return sum(place[axis] for place in places) / len(places)
