"""Refusals by token budget: one long answer, judged as if it had stopped sooner."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from vectomy.core.results import PartNumbers
from vectomy.report.charts.svg import element, figure, linear, slug, text
from vectomy.report.tables.numbers import finite, percent, plain
from vectomy.report.tables.subject_parts import SubjectResult

__all__ = ["budgets_chart", "budgets_of"]

WIDTH, LEFT = 340.0, 40.0
TOP, BOTTOM, LINE = 26.0, 186.0, 12.0
# Lines that all lie below this share are not told apart.
LEAST = 0.1


def budgets_of(compared: Sequence[SubjectResult], name: str) -> list[int]:
    """The budgets that anyone was judged at on the set `name`, in tokens."""
    return sorted(
        {
            int(tokens)
            for subject in compared
            for tokens in subject.on(name).by_budget
            if str(tokens).isdecimal()
        }
    )


def budgets_chart(compared: Sequence[SubjectResult], name: str) -> Markup:
    """A line for each subject over the budgets of the set `name`; empty where there are fewer than
    two, or where hardly anything is refused.
    """
    budgets = budgets_of(compared, name)
    lines = []
    for subject in compared:
        judged = subject.on(name).by_budget
        rates = [(length, finite(judged.get(str(length), PartNumbers()).refusal.rate)) for length in budgets]
        known = [(length, rate) for length, rate in rates if rate is not None]
        if len(known) > 1:
            lines.append((subject, known))
    if max((rate for _, known in lines for _, rate in known), default=0.0) <= LEAST:
        return Markup("")
    right = 14 + 6.0 * max(len(subject.label) for subject, _ in lines)
    x, y = linear((budgets[0], budgets[-1]), (LEFT + 6, WIDTH - right)), linear((0, 1), (BOTTOM, TOP))
    parts = []
    for share in range(5):
        parts.append(element("path", d=f"M{LEFT} {y(share / 4):.2f}H{WIDTH - right + 4}", class_="guide"))
        parts.append(text(LEFT - 5, y(share / 4) + 3.5, f"{25 * share}%", "tick", "end"))
    parts += [text(x(length), BOTTOM + 16, plain(length), "tick", "middle") for length in budgets]
    parts.append(
        text(
            (LEFT + WIDTH - right) / 2, BOTTOM + 32, "tokens of the answer that are judged", "axis", "middle"
        )
    )
    parts.append(text(4, 12, f"refusals, {name}"[:50], "label strong"))
    heights = _spread([y(known[-1][1]) for _, known in lines])
    for (subject, known), height in zip(lines, heights, strict=True):
        told = f"{subject.name}: " + ", ".join(f"{percent(rate)} at {length}" for length, rate in known)
        path = "M" + "L".join(f"{x(length):.2f} {y(rate):.2f}" for length, rate in known)
        parts.append(element("path", element("title", told), d=path, class_=f"line subject {subject.class_}"))
        parts += [
            element("circle", cx=x(length), cy=y(rate), r=2.4, class_=f"sign {subject.class_}")
            for length, rate in known
        ]
        end = x(known[-1][0])
        parts.append(
            element(
                "path",
                d=f"M{end + 4:.2f} {y(known[-1][1]):.2f}L{WIDTH - right + 8:.2f} {height:.2f}",
                class_="leader",
            )
        )
        parts.append(text(WIDTH - right + 10, height + 3.5, subject.label, f"label name {subject.class_}"))
    told = "; ".join(
        f"{subject.name} {percent(first)} at {shortest} tokens, {percent(last)} at {longest}"
        for subject, ((shortest, first), *_, (longest, last)) in lines
    )
    return figure(
        f"budgets-{slug(name)}",
        f"Refusals on {name} by token budget",
        f"{name}: {told}.",
        (WIDTH, BOTTOM + 40),
        parts,
    )


def _spread(wanted: Sequence[float]) -> list[float]:
    """Heights near the wanted ones, a line apart, none below the axis."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    last = -LINE
    for index in order:
        placed[index] = last = max(wanted[index], last + LINE)
    limit = BOTTOM
    for index in reversed(order):
        placed[index] = limit = min(placed[index], limit)
        limit -= LINE
    return placed
