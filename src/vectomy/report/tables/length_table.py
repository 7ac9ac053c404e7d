"""Refusals of a run by the length at which answers are cut, and the length at which they settle."""

from __future__ import annotations

from vectomy.core.results import FormMetrics, RunResults
from vectomy.report.tables.numbers import finite, percent
from vectomy.report.tables.statement import Cell, forms
from vectomy.report.tables.table_layout import Column, Line, Table, lay_out

__all__ = ["length_table", "settling_length"]

# A rate has settled where no longer answer differs by more.
NEAR = 0.02


def length_table(summary: RunResults) -> Table | None:
    """A line for each form of the edit; None where fewer than two lengths were judged."""
    measured = {name: _rates(metrics) for name, metrics in forms(summary).items()}
    lengths = sorted({length for rates in measured.values() for length in rates})
    if len(lengths) < 2:
        return None
    lines = [
        Line(name, _hint(rates), tuple(_cell(rates.get(length)) for length in lengths))
        for name, rates in measured.items()
    ]
    columns = [Column(f"{length:,}", "tokens") for length in lengths]
    caption = "Refusals of the same answers, cut off after so many tokens."
    return lay_out("lengths", caption, "Form", columns, lines)


def settling_length(rates: dict[int, float]) -> int | None:
    """The shortest length from which on every rate is within 2 points of the longest one's; None
    where only the longest is, so that longer answers may change it still.
    """
    lengths = sorted(rates)
    settled = None
    for length in reversed(lengths):
        if abs(rates[length] - rates[lengths[-1]]) > NEAR:
            break
        settled = length
    return settled if lengths and settled != lengths[-1] else None


def _rates(metrics: FormMetrics) -> dict[int, float]:
    values = {int(key): finite(rate) for key, rate in metrics.by_length.items() if key.isdecimal()}
    return {length: rate for length, rate in values.items() if rate is not None}


def _hint(rates: dict[int, float]) -> str:
    if len(rates) < 2:
        return ""
    settled = settling_length(rates)
    return "not settled: try more --answer-tokens" if settled is None else f"settled at {settled} tokens"


def _cell(rate: float | None) -> Cell:
    return Cell(rate, percent(rate))
