"""The points of a run as a table in the terminal."""

from __future__ import annotations

from rich.table import Table

from vectomy.cli.tables.cells import MISSING, shown
from vectomy.cli.terminal import open_console
from vectomy.core.results import FormMetrics
from vectomy.workflows.run_points import RunPoint, RunPoints

__all__ = ["print_points"]

# Rows of a recipe that scored many directions.
MOST = 12


def print_points(points: RunPoints) -> None:
    """The base and the taken point on the test prompts, then every point as its search saw it."""
    console = open_console()
    results = points.results
    trait = results.trait is not None
    # A trait that is induced is looked for where nothing asks for it.
    induced = results.trait is not None and results.trait.operation == "induce"
    what = "shows the trait" if trait else "refusals"
    table = Table(title=f"Points of {points.folder}: {results.behaviour} in {results.model}")
    table.title_justify = "left"
    table.add_column("point")
    table.add_column("measured on")
    for heading in ("strength", what, "KL, nats", "degenerate", "shown without it" if trait else "harmless"):
        table.add_column(heading, justify="right")
    if points.score_of:
        table.add_column(points.score_of, justify="right")
    table.add_column("")
    extra = [""] if points.score_of else []
    chosen = points.chosen
    table.add_row("base", "test", MISSING, *_tested(points.base), *extra, "")
    table.add_row(
        chosen.name, "test", _strength(chosen), *_tested(points.taken), *extra, "taken", end_section=True
    )
    listed = points.shown
    cut = [*listed[:MOST], *(point for point in listed[MOST:] if point.chosen)]
    for point in cut:
        table.add_row(
            point.name,
            "search",
            _strength(point),
            shown(None if induced else point.rate, ".1%"),
            shown(point.kl, ".4f"),
            shown(point.degenerate, ".1%"),
            shown(point.rate if induced else point.harmless, ".1%"),
            *([shown(point.score, ".3f")] if points.score_of else []),
            _mark(point),
        )
    console.print(table)
    more = len(points.points) - len(cut)
    kl = "" if points.kl_of == "token" else f"of the {points.kl_of} on the search prompts, "
    lines = [
        f"rule    {points.rule}",
        f"note    KL is {kl}per token{' on the test prompts' if kl else ''}",
        *(f"note    {note}" for note in points.notes),
        *([f"note    {more} more points: --json lists them"] if more else []),
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _tested(metrics: FormMetrics) -> tuple[str, str, str, str]:
    """Refusals, KL, degenerate answers and harmless refusals on the test prompts."""
    return (
        _counted(metrics, "refusal"),
        shown(metrics.kl_per_token, ".4f"),
        shown(metrics.degenerate_rate, ".1%"),
        _counted(metrics, "harmless_refusal"),
    )


def _counted(metrics: FormMetrics, name: str) -> str:
    rate = metrics.rate(name)  # type: ignore[arg-type]
    return MISSING if rate.rate is None else f"{rate.count}/{rate.total}"


def _strength(point: RunPoint) -> str:
    return shown(point.strength, "g")


def _mark(point: RunPoint) -> str:
    if point.chosen:
        return "taken by the rule"
    return "not held" if point.missing else ""
