"""Edits that were tried: behaviour that is left against damage, the frontier between them, and the
one that was taken.

An edit whose behaviour was not measured to the end has no height; a tick below the axis marks its
KL. Where there are prompts to keep, what is held on them is drawn on the same scale, each as a
diamond.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from vectomy.core.results import Candidate, JsonObject, SearchResults
from vectomy.report.charts.svg import Scale, decades, element, figure, linear, logarithmic, text, ticks
from vectomy.report.tables.numbers import decimal, finite, percent, plain
from vectomy.report.tables.recipe_terms import kl_name

__all__ = ["Point", "frontier_chart", "points"]

WIDTH, LEFT, RIGHT = 340.0, 40.0, 10.0
TOP, BOTTOM = 26.0, 168.0
# KLs further apart than this factor are drawn on a logarithmic scale.
WIDE = 30.0


@dataclass(frozen=True)
class Point:
    """An edit that was measured; `rate` is None where that was not done to the end, `rejected` then
    says why.
    """

    name: str
    kl: float | None
    rate: float | None
    held: float | None
    rejected: str
    chosen: bool
    best: bool
    """On the frontier: no other is better in both."""
    row: Candidate

    @property
    def take(self) -> str:
        """What `vectomy pick --take` calls it; empty where the run holds no Edit of it."""
        key = self.row.edit_key
        if key is None or not (self.best or self.chosen):
            return ""
        number, strength = key
        return f"{number}" if strength == 1.0 or not self.row.is_step else f"{number}@{strength:g}"

    @property
    def told(self) -> str:
        left = (
            f"{percent(self.rate)} left"
            if self.rate is not None
            else self.rejected or "behaviour not measured"
        )
        preserved = "" if self.held is None else f"; {percent(self.held)} on the prompts to keep"
        return f"{self.name}: {left}{preserved}; KL {decimal(self.kl)}"


def points(scores: SearchResults) -> list[Point]:
    """All candidates in their order; `step` or `number` names them, and a strength other than 1."""
    chosen = scores.chosen_edit
    best = [row.edit_key for row in scores.frontier]
    made = []
    for index, row in enumerate(scores.candidates):
        key = row.edit_key
        number, strength = (index, 1.0) if key is None else key
        dial = "" if strength == 1.0 else f" at strength {strength:g}"
        rejected = str(row.rejected or "")
        made.append(
            Point(
                name=f"{'step' if row.is_step else 'edit'} {number}{dial}",
                kl=finite(row.kl),
                rate=None if rejected else finite(row.rate),
                held=None if rejected else finite(row.held),
                rejected=rejected,
                chosen=key is not None and key == chosen,
                best=key in best,
                row=row,
            )
        )
    return made


def frontier_chart(scores: SearchResults, settings: JsonObject, positive: str = "positive") -> Markup:
    """The chart, or an empty string when no candidate has a KL."""
    drawn = [point for point in points(scores) if point.kl is not None]
    if not drawn:
        return Markup("")
    tried = [point for point in drawn if point.rate is not None]
    budget, target = finite(settings.get("kl_budget")), finite(settings.get("target_rate"))
    if budget is not None:
        target = None
    base = next(
        (value for row in (p.row for p in drawn) if (value := finite(row.held_base)) is not None), None
    )
    shares = [*(p.rate for p in tried), *(p.held for p in drawn), target, base]
    most = min(1.0, 1.05 * max(share for share in (*shares, 0.1) if share is not None))
    x, marks = _damage_scale([float(p.kl or 0.0) for p in drawn], budget)
    y = linear((0, most), (BOTTOM, TOP))
    parts = _frame(x, y, marks, most, kl_name(scores.recipe), positive)
    parts += _limits(x, y, target, budget, base)
    parts += _line(x, y, sorted((p for p in tried if p.best), key=lambda p: p.kl or 0.0))
    for index, point in enumerate(points(scores)):
        if point.kl is not None:
            parts += _mark(point, index, x(point.kl), y)
    parts += [_ring(point, x(point.kl or 0.0), y) for point in tried if point.chosen]
    kls = [point.kl or 0.0 for point in drawn]
    taken = next((point.told for point in drawn if point.chosen), "none")
    description = (
        f"{len(drawn)} edits measured, the behaviour of {len(tried)} to the end; "
        f"{kl_name(scores.recipe)} from {decimal(min(kls))} to {decimal(max(kls))} nats. Chosen: {taken}."
    )
    return figure("frontier", "Behaviour left against damage", description, (WIDTH, 222), parts)


def _damage_scale(kls: list[float], budget: float | None) -> tuple[Scale, list[float]]:
    """From left to right, and the numbers to write on it."""
    known = [*kls, budget] if budget is not None else kls
    positive, span = [kl for kl in known if kl > 0], (LEFT + 8, WIDTH - RIGHT - 8)
    if positive and max(positive) > WIDE * min(positive):
        low, high = min(positive), max(positive)
        return logarithmic((low, high), span), decades(low, high)
    high = max(known) or 1.0
    return linear((0, high), (LEFT, span[1])), ticks(0, high, 4)


def _frame(x: Scale, y: Scale, marks: list[float], most: float, kl: str, positive: str) -> list[Markup]:
    parts = []
    for share in ticks(0, most, 4):
        parts.append(element("path", d=f"M{LEFT} {y(share):.2f}H{WIDTH - RIGHT}", class_="guide"))
        parts.append(text(LEFT - 5, y(share) + 3.5, f"{100 * share:g}%", "tick", "end"))
    parts.append(element("path", d=f"M{LEFT} {BOTTOM}H{WIDTH - RIGHT}", class_="axis-line"))
    parts += [text(x(mark), BOTTOM + 25, plain(mark), "tick", "middle") for mark in marks]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, BOTTOM + 42, f"{kl}, nats", "axis", "middle"))
    parts.append(text(LEFT, 12, f"behaviour left, {positive} search prompts", "label strong"))
    return parts


def _limits(
    x: Scale, y: Scale, target: float | None, budget: float | None, base: float | None
) -> list[Markup]:
    """Lines at the target rate and the KL budget, and at the base's rate on prompts to keep."""
    parts = []
    if target is not None:
        tip = element("title", f"asked for: at most {100 * target:.3g}%")
        parts.append(element("path", tip, d=f"M{LEFT} {y(target):.2f}H{WIDTH - RIGHT}", class_="chance"))
    if budget is not None:
        tip = element("title", f"asked for: KL at most {plain(budget)}")
        parts.append(element("path", tip, d=f"M{x(budget):.2f} {TOP}V{BOTTOM}", class_="here"))
    if base is not None:
        tip = element("title", f"the base on the prompts to keep: {percent(base)}")
        parts.append(
            element("path", tip, d=f"M{LEFT} {y(base):.2f}H{WIDTH - RIGHT}", class_="line keep thin")
        )
    return parts


def _line(x: Scale, y: Scale, best: list[Point]) -> list[Markup]:
    """A stair: what an edit of that KL leaves at best."""
    if len(best) < 2:
        return []
    stairs = [f"{x(best[0].kl or 0.0):.2f} {y(best[0].rate or 0.0):.2f}"]
    stairs += [f"H{x(point.kl or 0.0):.2f}V{y(point.rate or 0.0):.2f}" for point in best[1:]]
    return [element("path", d=f"M{''.join(stairs)}", class_="line ink")]


def _mark(point: Point, index: int, across: float, y: Scale) -> list[Markup]:
    """Its mark; `index` is its place among all points, by which the script finds it."""
    tip = element("title", point.told)
    if point.rate is None:
        tick = f"M{across:.2f} {BOTTOM + 5}v7"
        return [element("path", tip, d=tick, class_="untried", data_point=index)]
    parts = []
    if point.held is not None:
        diamond = f"M{across:.2f} {y(point.held) - 5.5:.2f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"
        parts.append(element("path", tip, d=diamond, class_="dot keep held"))
    class_ = "dot tried" if point.best or point.chosen else "dot tried behind"
    place = {"cx": across, "cy": y(point.rate), "r": 3.2}
    return [*parts, element("circle", tip, class_=class_, data_point=index, **place)]


def _ring(point: Point, across: float, y: Scale) -> Markup:
    place = {"cx": across, "cy": y(point.rate or 0.0), "r": 7}
    return element(
        "g",
        element("title", f"chosen: {point.told}"),
        element("circle", class_="ring", **place),
        class_="chosen",
    )
