"""Inline SVG, escaped: elements, number axes, and the frame that gives every figure its title and
description.

Colours are classes (see page.css), so that one figure serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from markupsafe import Markup, escape

__all__ = ["Scale", "decades", "element", "figure", "linear", "logarithmic", "slug", "text", "ticks"]

Scale = Callable[[float], float]


def element(name: str, *children: object, **attributes: object) -> Markup:
    """`<name ...>children</name>`; `class_` is class and `stroke_width` is stroke-width. Everything
    is escaped.
    """
    spelled = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{spelled}>{inside}</{name}>")


def text(x: float, y: float, content: object, class_: str = "label", anchor: str = "start") -> Markup:
    return element("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def figure(
    name: str, title: str, description: str, size: tuple[float, float], parts: Iterable[Markup]
) -> Markup:
    """The svg element; `name` makes its ids unique in the page."""
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {_short(size[0])} {_short(size[1])}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        style=f"--natural: {_short(size[0])}px",
    )


def slug(words: str) -> str:
    """`words` as part of an id: what is no letter or digit becomes its number."""
    return "".join(
        letter if letter.isascii() and letter.isalnum() else f"-{ord(letter):x}" for letter in words
    )


def linear(domain: tuple[float, float], span: tuple[float, float]) -> Scale:
    """The straight line that takes `domain` to `span`; an empty domain goes to the middle."""
    (low, high), (start, end) = domain, span
    if high == low:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def logarithmic(domain: tuple[float, float], span: tuple[float, float]) -> Scale:
    """The same in the logarithm; what is below the domain, 0 included, goes to its low end."""
    low = domain[0]
    straight = linear((math.log(low), math.log(domain[1])), span)
    return lambda value: straight(math.log(max(value, low)))


def decades(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high]; of a range with hardly any, threes as well, or twos and
    fives.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    width = math.log10(high / low)
    factors = (1, 2, 5) if width < 1.7 else (1, 3) if width < 2.7 else (1,)
    marks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    inside = [value for value in marks if low * 0.999 <= value <= high * 1.001] or [low]
    return inside[:: math.ceil(len(inside) / 6)]


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if high <= low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [
        round(i * step, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
