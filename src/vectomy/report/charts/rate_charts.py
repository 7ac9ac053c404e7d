"""The page's charts: rates with their intervals, the two sets' projections, and how well each layer
tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from vectomy.core.results import LayerSeparation, RateName, RunResults, Separation
from vectomy.report.charts.svg import Scale, element, figure, linear, text, ticks
from vectomy.report.tables.behaviour_effect import SIDES, name_prompts
from vectomy.report.tables.numbers import decimal, finite, interval, percent, plain
from vectomy.report.tables.statement import KEEP, forms, keeps, rate_names

__all__ = ["auroc_by_layer", "histogram", "intervals", "means_by_layer", "timings"]

WIDTH, LEFT, RIGHT = 340.0, 34.0, 8.0
BINS = 24


def intervals(summary: RunResults) -> Markup:
    """The refusal rates of each form: a dot with its 95% interval, on one scale from 0 to 100%."""
    measured = forms(summary)
    x = linear((0, 1), (58, WIDTH - 14))
    trait = summary.trait
    parts: list[Markup] = []
    told: list[str] = []
    y = 4.0
    sides: list[tuple[RateName, str, str]] = [
        ("refusal", "in its context" if trait else name_prompts(summary, "refusal"), "positive"),
        (
            "harmless_refusal",
            "without its context" if trait else name_prompts(summary, "harmless_refusal"),
            "negative",
        ),
    ]
    if keeps(summary):
        sides.append((KEEP, "prompts to keep", "keep"))
    for key, name, side in sides:
        parts.append(text(x(0), y + 9, name, "label strong"))
        y += 24
        for form, metrics in measured.items():
            shown = metrics.rate(key)
            rate = finite(shown.rate)
            parts.append(text(50, y + 3.5, form, "label", "end"))
            parts.append(element("path", d=f"M{x(0):.2f} {y}H{x(1):.2f}", class_="guide"))
            if rate is not None:
                parts += _whisker(x, y, rate, shown.ci, f"{side} {form}")
                told.append(f"{name}, {form}: {percent(rate)} ({interval(shown.ci) or 'no interval'})")
            y += 17
        y += 4
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(text(x(share), y + 8, f"{share:.0%}", "tick", "middle"))
    parts.append(
        text((x(0) + x(1)) / 2, y + 22, f"{rate_names(summary).noun}, 95% Wilson interval", "axis", "middle")
    )
    return figure(
        "intervals",
        f"{'Rates of the trait' if trait else 'Refusal rates'} with 95% intervals",
        "; ".join(told) + ".",
        (WIDTH, y + 28),
        parts,
    )


def _whisker(
    x: Scale, y: float, rate: float, bounds: tuple[float, float] | None, class_: str
) -> list[Markup]:
    dot = element("circle", cx=x(rate), cy=y, r=4, class_=f"dot {class_}")
    if bounds is None or not interval(bounds):
        return [dot]
    low, high = x(bounds[0]), x(bounds[1])
    path = f"M{low:.2f} {y}H{high:.2f}M{low:.2f} {y - 4}v8M{high:.2f} {y - 4}v8"
    return [element("path", d=path, class_=f"whisker {class_}"), dot]


def histogram(separation: Separation, names: Mapping[str, str] = SIDES) -> Markup:
    """Projections on the direction at the chosen layer: positive prompts above the line, negative
    ones below.
    """
    sets = {
        side: [value for value in map(finite, projections) if value is not None]
        for side, projections in (("positive", separation.positive), ("negative", separation.negative))
    }
    values = sets["positive"] + sets["negative"]
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    width = (high - low) / BINS or 1.0
    counts = {side: [0] * BINS for side in sets}
    for side, projections in sets.items():
        for value in projections:
            counts[side][min(int((value - low) / width), BINS - 1)] += 1
    most = max(max(bins) for bins in counts.values())
    middle, reach = 100.0, 76.0
    x, bin_width = linear((low, low + BINS * width), (LEFT, WIDTH - RIGHT)), (WIDTH - LEFT - RIGHT) / BINS
    parts = [
        text(LEFT, 13, names["positive"], "label positive strong"),
        text(LEFT, 192, names["negative"], "label negative strong"),
    ]
    for side, bins in counts.items():
        for i, count in enumerate(bins):
            if count:
                height = reach * count / most
                top = middle - height - 0.5 if side == "positive" else middle + 0.5
                edges = f"{decimal(low + i * width)} and {decimal(low + (i + 1) * width)}"
                tip = element("title", f"{names[side]}: {count} between {edges}")
                box = {"x": LEFT + i * bin_width + 0.5, "y": top, "width": bin_width - 1, "height": height}
                parts.append(element("rect", tip, class_=f"bar {side}", **box))
    for sign in (-1, 1):
        parts.append(text(LEFT - 5, middle + sign * reach + 3.5, most, "tick", "end"))
    parts.append(element("path", d=f"M{LEFT} {middle}H{WIDTH - RIGHT}", class_="axis-line"))
    parts += [text(x(tick), 208, plain(tick), "tick", "middle") for tick in ticks(low, low + BINS * width, 6)]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, 222, "projection on the direction", "axis", "middle"))
    told = (
        f"{names[side]}: {len(v)} prompts, mean {decimal(sum(v) / len(v))}" for side, v in sets.items() if v
    )
    return figure("histogram", "Projections at the chosen layer", "; ".join(told) + ".", (WIDTH, 228), parts)


def means_by_layer(separation: Separation, names: Mapping[str, str] = SIDES) -> Markup:
    """Mean projection of each set by layer, with a band of one standard deviation."""
    rows = separation.layers
    points = {side: _points(rows, f"{side}_mean", f"{side}_std") for side in ("positive", "negative")}
    ends = [value for line in points.values() for _, mean, std in line for value in (mean - std, mean + std)]
    if not ends:
        return Markup("")
    x, y = _layer_scale(rows), linear((min(ends), max(ends)), (180, 22))
    parts = _frame(rows, separation, x, y, ticks(min(ends), max(ends)))
    for side, line in points.items():
        if line:
            upper = [f"{x(layer):.2f} {y(mean + std):.2f}" for layer, mean, std in line]
            lower = [f"{x(layer):.2f} {y(mean - std):.2f}" for layer, mean, std in reversed(line)]
            parts.append(element("path", d=f"M{'L'.join(upper + lower)}Z", class_=f"band {side}"))
            parts.append(element("path", d=_path(x, y, [(a, b) for a, b, _ in line]), class_=f"line {side}"))
    parts += [
        element("path", d="M38 11h14", class_="line positive"),
        text(57, 14.5, names["positive"], "label positive strong"),
        element("path", d="M112 11h14", class_="line negative"),
        text(131, 14.5, names["negative"], "label negative strong"),
        text(196, 14.5, "band: ± 1 s.d.", "label"),
    ]
    told = (
        f"Mean projection of the {names['positive']} and the {names['negative']} prompts by layer; the table "
        "below has the numbers."
    )
    return figure("means", "Mean projection by layer", told, (WIDTH, 228), parts)


def auroc_by_layer(separation: Separation) -> Markup:
    """How often a positive prompt projects above a negative one: 0.5 is chance, 1 is always."""
    rows = separation.layers
    points = [(layer, value) for layer, value, _ in _points(rows, "auroc", None)]
    if not points:
        return Markup("")
    low = min(0.5, *(value for _, value in points))
    x, y = _layer_scale(rows), linear((low, 1), (180, 22))
    parts = _frame(rows, separation, x, y, ticks(low, 1, 5))
    parts.append(element("path", d=f"M{LEFT} {y(0.5):.2f}H{WIDTH - RIGHT}", class_="chance"))
    parts.append(text(WIDTH - RIGHT, y(0.5) - 5, "chance", "label", "end"))
    parts.append(element("path", d=_path(x, y, points), class_="line ink"))
    parts += [
        element(
            "circle",
            element("title", f"layer {layer}: {decimal(value)}"),
            cx=x(layer),
            cy=y(value),
            r=2.2,
            class_="dot",
        )
        for layer, value in points
    ]
    best = max(points, key=lambda point: point[1])
    told = f"AUROC of the two sets by layer; highest {decimal(best[1])} at layer {best[0]}."
    return figure("auroc", "AUROC by layer", told, (WIDTH, 228), parts)


def timings(seconds: Mapping[str, float]) -> dict[str, object]:
    """The time that each piece took as (name, seconds, bar), the longest having the whole bar, and
    the sum; a time that was not measured is None and has no bar.
    """
    spent = {str(name): finite(value) for name, value in seconds.items()}
    known = [value for value in spent.values() if value is not None]
    longest = max(known, default=0.0) or 1.0
    rows = [(name, value, "" if value is None else _bar(value / longest)) for name, value in spent.items()]
    return {"timings": rows, "total_seconds": sum(known)}


def _bar(share: float) -> Markup:
    """A plain bar for a table cell that states the same number beside it."""
    inside = element("rect", x=0, y=1, width=max(100 * share, 0.5), height=6, class_="bar ink")
    return element(
        "svg", inside, viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true", class_="meter"
    )


def _points(
    rows: Sequence[LayerSeparation], value: str, spread: str | None
) -> list[tuple[int, float, float]]:
    """(layer, value, spread) of the layers that have the value."""
    points = []
    for row in rows:
        number = finite(getattr(row, value))
        if number is not None:
            points.append((row.layer, number, (finite(getattr(row, spread)) if spread else None) or 0.0))
    return points


def _layer_scale(rows: Sequence[LayerSeparation]) -> Scale:
    layers = [row.layer for row in rows]
    return linear((min(layers), max(layers)), (LEFT + 4, WIDTH - RIGHT - 4))


def _frame(
    rows: Sequence[LayerSeparation], separation: Separation, x: Scale, y: Scale, marks: list[float]
) -> list[Markup]:
    """Guides with their numbers, the layer axis, and a line at the chosen layer."""
    layers = [row.layer for row in rows]
    parts = []
    for mark in marks:
        parts.append(element("path", d=f"M{LEFT} {y(mark):.2f}H{WIDTH - RIGHT}", class_="guide"))
        parts.append(text(LEFT - 5, y(mark) + 3.5, plain(mark), "tick", "end"))
    step = 5 if max(layers) <= 48 else 10
    parts += [text(x(layer), 196, layer, "tick", "middle") for layer in layers if layer % step == 0]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, 212, "layer", "axis", "middle"))
    chosen = separation.layer
    if chosen is not None and chosen in layers:
        line = element(
            "path", element("title", f"chosen: layer {chosen}"), d=f"M{x(chosen):.2f} 22V180", class_="here"
        )
        parts.append(line)
    return parts


def _path(x: Scale, y: Scale, points: list[tuple[int, float]]) -> str:
    return "M" + "L".join(f"{x(layer):.2f} {y(value):.2f}" for layer, value in points)
