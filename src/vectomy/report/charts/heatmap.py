"""Candidate directions by layer (across) and site or position (down), one colour per score.

A full cell passed the recipe's filters, a small one did not, a dot was filtered out before this
score was measured; a ring marks the chosen one. Stronger colour is always better, whichever way the
score runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vectomy.core.results import Candidate, DirectionPlace
from vectomy.report.charts.svg import element, figure, text
from vectomy.report.tables.numbers import decimal, finite, plain
from vectomy.report.tables.statement import token_text

__all__ = ["Score", "candidate_name", "heat_map", "same_candidate"]

STEPS = 9
CHARACTER = 6.8
MANY_LAYERS = 48


@dataclass(frozen=True)
class Score:
    """A key of the candidates, its name for readers, and which way is better."""

    key: str
    name: str
    note: str
    lower_is_better: bool
    logarithmic: bool = False


def candidate_name(candidate: DirectionPlace) -> str:
    position = f", position {plain(candidate.position)}" if candidate.position is not None else ""
    return f"{candidate.site}, layer {candidate.layer}{position}"


def same_candidate(candidate: DirectionPlace, other: DirectionPlace | None) -> bool:
    return other is not None and (candidate.site, candidate.layer, candidate.position) == (
        other.site,
        other.layer,
        other.position,
    )


def heat_map(
    score: Score, candidates: Sequence[Candidate], chosen: DirectionPlace | None, passed: list[bool]
) -> Markup:
    """One map. `passed` says for each candidate whether it is drawn as a full cell; those without a
    score are dots.

    Returns:
        The svg element, or an empty string when no candidate has this score.
    """
    values = [finite(getattr(candidate, score.key)) for candidate in candidates]
    known = [value for value in values if value is not None]
    if not known:
        return Markup("")
    steps = _steps(values, score)
    labels = _row_labels(candidates)
    layers = [(candidate.layer or 0) for candidate in candidates]
    last = max(layers)
    left = CHARACTER * max(len(label) for label in labels.values()) + 8
    width = 720.0 if last > MANY_LAYERS else 340.0
    cell, row, top = (width - left - 4) / (last + 1), 22.0 if len(labels) < 9 else 14.0, 36.0
    heights = {key: top + row * i for i, key in enumerate(labels)}
    bottom = top + row * len(labels)
    parts = _legend(known, score, left, width)
    for key, label in labels.items():
        mark = chosen is not None and key == _row(chosen)
        parts.append(
            text(left - 6, heights[key] + row / 2 + 3.5, label, "row strong" if mark else "row", "end")
        )
    ring = Markup("")
    for candidate, value, step, full in zip(candidates, values, steps, passed, strict=True):
        place = left + cell * (candidate.layer or 0), heights[_row(candidate)]
        measured = "not measured" if value is None else decimal(value)
        tip = f"{candidate_name(candidate)}: {measured}{_verdict(candidate)}"
        if value is None:
            middle = {"cx": place[0] + cell / 2, "cy": place[1] + row / 2, "r": min(cell, row) * 0.12}
            parts.append(element("circle", element("title", tip), class_="unmeasured", **middle))
        else:
            parts.append(_cell(place, (cell, row), step, full, tip))
        if same_candidate(candidate, chosen):
            ring = _ring(place, (cell, row), top, tip)
    parts += [ring, *_layer_axis(last, left, cell, bottom, chosen)]
    best = (min if score.lower_is_better else max)(known)
    description = (
        f"{len(known)} of {len(candidates)} candidates measured, in layers {min(layers)} to {last}; "
        f"{score.name} runs from {decimal(min(known))} to {decimal(max(known))}, best {decimal(best)}. "
        + (f"Chosen: {candidate_name(chosen)}." if chosen else "None chosen.")
    )
    return figure(
        f"map-{score.key}", f"{score.name} by layer and position", description, (width, bottom + 32), parts
    )


def _steps(values: list[float | None], score: Score) -> list[int]:
    """Colour class of each value, 0 (worst) to 8 (best)."""

    def scaled(value: float) -> float:
        return math.log(max(value, 1e-4)) if score.logarithmic else value

    known = [scaled(value) for value in values if value is not None]
    low, high = min(known), max(known)
    steps = []
    for value in values:
        share = 0.5 if value is None or high == low else (scaled(value) - low) / (high - low)
        steps.append(min(int((1 - share if score.lower_is_better else share) * STEPS), STEPS - 1))
    return steps


def _row(candidate: DirectionPlace) -> tuple[str, int]:
    return str(candidate.site), candidate.position or 0


def _row_labels(candidates: Sequence[Candidate]) -> dict[tuple[str, int], str]:
    """Label of each row, in the stream's order; what all rows share is left out."""
    tokens = {_row(candidate): str(candidate.token or "") for candidate in candidates}
    order = {"resid_pre": 0, "resid_mid": 1, "resid_post": 2}
    keys = sorted(tokens, key=lambda key: (order.get(key[0], 3), key))
    sites, positions = {key[0] for key in keys}, {key[1] for key in keys}
    labels = {}
    for key in keys:
        words = [key[0]] if len(sites) > 1 else []
        if len(positions) > 1 or not words:
            shown = token_text(tokens[key])
            words += [shown if len(shown) <= 13 else shown[:12] + "…", plain(key[1])]
        labels[key] = " ".join(word for word in words if word)
    return labels


def _verdict(candidate: Candidate) -> str:
    return f" (filtered out: {candidate.rejected})" if candidate.rejected else ""


def _cell(place: tuple[float, float], size: tuple[float, float], step: int, full: bool, tip: str) -> Markup:
    (x, y), (width, height) = place, size
    if full:
        box = {"x": x + 0.4, "y": y + 0.5, "width": width - 0.8, "height": height - 1}
    else:
        small = min(width, height) * 0.46
        box = {"x": x + (width - small) / 2, "y": y + (height - small) / 2, "width": small, "height": small}
    return element("rect", element("title", tip), class_=f"q{step}{'' if full else ' filtered'}", **box)


def _ring(place: tuple[float, float], size: tuple[float, float], top: float, tip: str) -> Markup:
    (x, y), (width, height) = place, size
    box = {"x": x - 1, "y": y - 1, "width": width + 2, "height": height + 2, "rx": 1.5}
    arrow = f"M{x + width / 2 - 4:.2f} {top - 9:.2f}h8l-4 5z"
    return element(
        "g",
        element("title", f"chosen: {tip}"),
        element("rect", class_="halo", **box),
        element("rect", class_="ring", **box),
        element("path", d=arrow, class_="arrow"),
        class_="chosen",
    )


def _legend(known: list[float], score: Score, left: float, width: float) -> list[Markup]:
    worst, best = (max(known), min(known)) if score.lower_is_better else (min(known), max(known))
    swatch, end = 9.0, width - 4
    name = decimal(best)
    start = end - CHARACTER * len(name) - 5 - swatch * STEPS
    parts = [
        element("rect", x=start + swatch * i, y=4, width=swatch, height=8, class_=f"q{i}")
        for i in range(STEPS)
    ]
    parts.append(
        text(start - 5, 11.5, decimal(worst) + (" (log)" if score.logarithmic else ""), "tick", "end")
    )
    parts.append(text(start + swatch * STEPS + 5, 11.5, name, "tick"))
    return parts


def _layer_axis(
    last: int, left: float, cell: float, bottom: float, chosen: DirectionPlace | None
) -> list[Markup]:
    """Every fifth or tenth layer, and the chosen one in place of those too near to it."""
    here = None if chosen is None else chosen.layer
    step = 5 if last <= MANY_LAYERS else 10
    layers = [i for i in range(0, last + 1, step) if here is None or abs(i - here) * cell >= 20]
    marks = [text(left + cell * (i + 0.5), bottom + 14, i, "tick", "middle") for i in layers]
    if here is not None:
        marks.append(text(left + cell * (here + 0.5), bottom + 14, here, "tick strong", "middle"))
    return [*marks, text(left + cell * (last + 1) / 2, bottom + 28, "layer", "axis", "middle")]
