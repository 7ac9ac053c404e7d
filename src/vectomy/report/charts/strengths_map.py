"""How strongly each writer is edited: layers across, components down. Empty where a writer stays
exactly as it is.

Each cell has its number. Colour is the size of the strength; one below 0, which amplifies, has the
other colour and a minus sign.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from vectomy.core.component import COMPONENTS, OUTSIDE
from vectomy.core.results import SearchResults
from vectomy.report.charts.heatmap import CHARACTER, STEPS
from vectomy.report.charts.svg import element, figure, text
from vectomy.report.tables.numbers import decimal, finite, plain

__all__ = ["Strength", "strengths_map", "strengths_of"]

ROW, HEAD = 26.0, 24.0
# A cell has room for its number, and a map of few layers fills the page.
NARROW, WIDE, PAGE = 25.0, 40.0, 1030.0
# Of the colour below numbers that amplify, so that they can be read on it.
FAINT, FULL = 0.14, 0.42


@dataclass(frozen=True)
class Strength:
    """The strengths of one writer, one for each of its directions; the layer is None in front of
    the first block.
    """

    component: str
    layer: int | None
    values: tuple[float, ...]

    @property
    def largest(self) -> float:
        """That of largest size, with its sign: the one that is drawn."""
        return max(self.values, key=abs)

    @property
    def place(self) -> str:
        return self.component.replace("_", " ") + ("" if self.layer is None else f" of layer {self.layer}")


def strengths_of(scores: SearchResults) -> list[Strength]:
    """Writers that are edited, by layer; what is no number is left out."""
    result = []
    for row in scores.strengths:
        values = tuple(value for value in map(finite, row.strengths) if value is not None)
        if any(values):
            result.append(Strength(str(row.component), row.layer, values))
    return sorted(
        result, key=lambda writer: (-1 if writer.layer is None else writer.layer, _rank(writer.component))
    )


def _rank(component: str) -> tuple[int, str]:
    """Known components in their order, others behind them."""
    names: tuple[str, ...] = COMPONENTS
    return (names.index(component) if component in names else len(names), component)


def strengths_map(scores: SearchResults, layers: int = 0) -> Markup:
    """The picture, or an empty string without strengths.

    Args:
        layers: how many the model has; at least those that are edited are drawn.
    """
    strengths = strengths_of(scores)
    if not strengths:
        return Markup("")
    components = sorted({writer.component for writer in strengths}, key=_rank)
    last = max(layers - 1, *(writer.layer or 0 for writer in strengths))
    front = any(writer.layer is None for writer in strengths)
    left = CHARACTER * max(len(component) for component in components) + 8
    columns = last + 1 + 1.5 * front
    cell = min(max((PAGE - left - 4) / columns, NARROW), WIDE)
    width = left + 4 + cell * columns
    start = left + 1.5 * cell * front
    rows = {component: HEAD + ROW * index for index, component in enumerate(components)}
    bottom = HEAD + ROW * len(components)
    most = max(abs(writer.largest) for writer in strengths)
    parts = _legend(most, any(writer.largest < 0 for writer in strengths), width)
    edited = {(writer.component, writer.layer): writer for writer in strengths}
    for component, y in rows.items():
        parts.append(text(left - 6, y + ROW / 2 + 3.5, component.replace("_", " "), "row", "end"))
        for layer in (None, *range(last + 1)) if front else range(last + 1):
            box = {
                "x": (left if layer is None else start + cell * layer) + 0.4,
                "y": y + 0.5,
                "width": cell - 0.8,
                "height": ROW - 1,
            }
            writer = edited.get((component, layer))
            if writer is not None:
                parts.append(_cell(writer, most, box))
            elif (layer is None) == (component in OUTSIDE):
                parts.append(element("rect", class_="empty", **box))
    parts += [
        text(start + cell * (index + 0.5), bottom + 14, index, "tick", "middle") for index in range(last + 1)
    ]
    parts.append(text(start + cell * (last + 1) / 2, bottom + 28, "layer", "axis", "middle"))
    return figure(
        "strengths", "Strength of each writer", _told(strengths, components), (width, bottom + 32), parts
    )


def _cell(writer: Strength, most: float, box: dict[str, float]) -> Markup:
    step = min(int(abs(writer.largest) / most * STEPS), STEPS - 1)
    more = f" (all: {', '.join(decimal(value) for value in writer.values)})" if len(writer.values) > 1 else ""
    tip = element("title", f"{writer.place}: {decimal(writer.largest)}{more}")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 + 3.5
    if writer.largest > 0:
        rect = element("rect", class_=f"q{step}", **box)
        number = text(x, y, _number(writer.largest), f"in-cell {'high' if step > 4 else 'low'}", "middle")
    else:
        rect = element("rect", class_="amplified", fill_opacity=_opacity(step), **box)
        number = text(x, y, _number(writer.largest), "in-cell minus", "middle")
    return element("g", tip, rect, number)


def _number(value: float) -> str:
    """Two digits without the leading zero: `.85`, `1.2`, `−.33`."""
    size = abs(value)
    digits = f"{size:.1f}" if size >= 0.995 else f"{size:.2f}".removeprefix("0")
    return f"−{digits}" if value < 0 else digits


def _opacity(step: int) -> float:
    return FAINT + (FULL - FAINT) * step / (STEPS - 1)


def _legend(most: float, negative: bool, width: float) -> list[Markup]:
    swatch, name = 9.0, decimal(most, 2)
    start = width - 4 - CHARACTER * len(name) - 5 - swatch * STEPS
    parts = [
        element("rect", x=start + swatch * i, y=4, width=swatch, height=8, class_=f"q{i}")
        for i in range(STEPS)
    ]
    parts.append(text(start + swatch * STEPS + 5, 11.5, name, "tick"))
    parts.append(text(start - 5, 11.5, "0", "tick", "end"))
    if negative:
        low = start - 20 - swatch * STEPS
        for i in range(STEPS):
            box = {"x": low + swatch * i, "y": 4, "width": swatch, "height": 8}
            parts.append(element("rect", class_="amplified", fill_opacity=_opacity(STEPS - 1 - i), **box))
        parts.append(text(low - 5, 11.5, decimal(-most, 2), "tick", "end"))
    return parts


def _told(strengths: list[Strength], components: list[str]) -> str:
    means = []
    for component in components:
        of = [writer.largest for writer in strengths if writer.component == component]
        means.append(f"{component.replace('_', ' ')} {decimal(sum(of) / len(of), 2)} over {len(of)}")
    strongest = max(strengths, key=lambda writer: abs(writer.largest))
    below = sum(writer.largest < 0 for writer in strengths)
    return (
        f"{len(strengths)} writers edited, {plain(below)} of them with a strength below 0; "
        f"mean by component: {', '.join(means)}. "
        f"Strongest: {strongest.place}, {decimal(strongest.largest)}."
    )
