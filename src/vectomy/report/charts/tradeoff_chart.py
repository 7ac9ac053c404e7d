"""What an evaluation shows at a glance: refusals against damage, and over-refusal against true
refusal.

Damage is KL(base || subject) per token. A small change of the weights costs KL in its square, so
the axis is a square root, on which the points of a dial stand about as far apart as their
strengths; where they are more than a hundredfold apart it is logarithmic, with a place for 0 in
front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from vectomy.core.results import Rate
from vectomy.report.charts.scatter import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Axis, Mark, scatter
from vectomy.report.charts.svg import Scale, decades, linear, logarithmic, ticks
from vectomy.report.tables.numbers import decimal, finite, interval, percent, plain
from vectomy.report.tables.subject_parts import Part, SubjectResult, dials

__all__ = ["over_refusal_chart", "tradeoff_chart"]

# KLs further apart than this factor are drawn on a logarithmic scale.
WIDE = 100.0
SHARES = [(share / 4, f"{25 * share}%") for share in range(5)]


def tradeoff_chart(compared: Sequence[SubjectResult], main: Part, damage: str) -> Markup:
    """Refusal rate on `main` with its interval, against KL per token on the set `damage`; empty
    without either.
    """
    marks = []
    for subject in compared:
        rate, kl = main.rate(subject), _kl(subject, damage)
        if rate is not None and kl is not None:
            ci = _interval(main.refusal(subject))
            told = f"{subject.name}: {percent(rate)} refused ({_spelled(ci)}), KL {decimal(kl)}"
            marks.append(
                Mark(subject.name, subject.label, subject.class_, max(kl, 0.0), rate, None, ci, told)
            )
    if not marks:
        return Markup("")
    x, marked, breaks, named = _damage_scale(marks)
    y = linear((0, 1), (BOTTOM, TOP))
    floor = max((mark.x for mark in marks if mark.kind == "noise"), default=None)
    description = f"Refusals on {main.name}, against KL per token from the base on {damage}. " + _told(marks)
    return scatter(
        "tradeoff",
        "Refusals against damage",
        description,
        marks,
        _lines(compared),
        Axis(f"KL per token from the base, nats ({named})", x, marked, breaks),
        Axis(_clipped(f"refusals, {main.name}"), y, SHARES),
        floor,
    )


def over_refusal_chart(compared: Sequence[SubjectResult], safe: Part, unsafe: Part) -> Markup:
    """Refusals of prompts that should be answered, against refusals of those that should not."""
    marks = []
    for subject in compared:
        true, over = unsafe.rate(subject), safe.rate(subject)
        if true is not None and over is not None:
            across, up = _interval(unsafe.refusal(subject)), _interval(safe.refusal(subject))
            told = (
                f"{subject.name}: {percent(true)} of the unsafe refused ({_spelled(across)}), "
                f"{percent(over)} of the safe ({_spelled(up)})"
            )
            marks.append(Mark(subject.name, subject.label, subject.class_, true, over, across, up, told))
    if not marks:
        return Markup("")
    x, y = linear((0, 1), (LEFT + 8, WIDTH - RIGHT - 8)), linear((0, 1), (BOTTOM, TOP))
    return scatter(
        "over-refusal",
        "Over-refusal against true refusal",
        f"{safe.set}: refusals of safe prompts against refusals of unsafe ones. " + _told(marks),
        marks,
        _lines(compared),
        Axis(_clipped(f"unsafe prompts refused, {unsafe.set}"), x, SHARES),
        Axis(_clipped(f"safe prompts refused, {safe.set}"), y, SHARES),
    )


def _damage_scale(marks: Sequence[Mark]) -> tuple[Scale, list[tuple[float, str]], float | None, str]:
    """The scale from left to right, its numbers, where it is broken, and its name; what is smaller
    than all but noise goes to the place of 0."""
    positive = [mark.x for mark in marks if mark.x > 0]
    changed = [mark.x for mark in marks if mark.x > 0 and mark.kind not in ("noise", "random")]
    start, end = LEFT + 8, WIDTH - RIGHT - 14
    high = max(positive, default=1.0)
    if high > WIDE * min(changed, default=high):
        low = min(mark.x for mark in marks if mark.x > 0 and mark.kind != "noise")
        straight = logarithmic((low, high), (start + 34, end))
        marked = [(0.0, "0"), *((value, plain(value)) for value in decades(low, high))]
        return (lambda value: straight(value) if value >= low else start), marked, start + 17, "logarithmic"
    root = linear((0, math.sqrt(high)), (start, end))
    steps = [(value, plain(value)) for value in ticks(0, high, 4)]
    return (lambda value: root(math.sqrt(value))), steps, None, "square-root scale"


def _kl(subject: SubjectResult, damage: str) -> float | None:
    known = finite(subject.on(damage).kl_per_token)
    return 0.0 if known is None and subject.kind == "base" else known


def _interval(rate: Rate) -> tuple[float, float] | None:
    bounds = rate.ci
    return (float(bounds[0]), float(bounds[1])) if bounds and interval(bounds) else None


def _spelled(bounds: tuple[float, float] | None) -> str:
    return interval(bounds) or "no interval"


def _lines(compared: Sequence[SubjectResult]) -> list[list[str]]:
    return [[subject.name for subject in dial] for dial in dials(compared)]


def _told(marks: Sequence[Mark]) -> str:
    return "; ".join(mark.told for mark in marks) + "."


def _clipped(words: str) -> str:
    return words if len(words) <= 50 else words[:49] + "…"
