"""Refusals by answer length on the page of a run."""

from __future__ import annotations

import pytest
from invented_run import a_summary

from vectomy.core.results import RunResults
from vectomy.report.tables.length_table import length_table, settling_length

TIER = "unit"


@pytest.mark.parametrize(
    ("rates", "settled"),
    [
        ({8: 0.9, 16: 0.5, 32: 0.1, 64: 0.1}, 32),
        ({8: 0.11, 16: 0.1, 32: 0.1}, 8),
        # Back to where it was is not settled before.
        ({8: 0.1, 16: 0.5, 32: 0.1, 64: 0.1}, 32),
        ({8: 0.9, 16: 0.5, 32: 0.1}, None),
        ({64: 0.1}, None),
        ({}, None),
    ],
)
def test_a_rate_has_settled_where_no_longer_answer_differs(
    rates: dict[int, float], settled: int | None
) -> None:
    assert settling_length(rates) == settled


def test_the_table_has_a_line_for_each_form_and_says_where_it_settles() -> None:
    summary = a_summary()
    summary["base"]["by_length"] = {"8": 0.5, "32": 0.9, "64": 0.91}
    summary["forms"]["baked"]["by_length"] = {"8": 0.5, "32": 0.2, "64": 0.05}
    table = length_table(RunResults.from_json(summary))
    assert table is not None
    assert [column.head for column in table.columns] == ["8", "32", "64"]
    lines = {line.head: line for line in table.lines}
    assert lines["base"].hint == "settled at 32 tokens"
    assert lines["baked"].hint.startswith("not settled")
    assert [cell.text for cell in lines["baked"].cells] == ["50.0%", "20.0%", "5.0%"]


def test_without_lengths_there_is_no_table() -> None:
    assert length_table(RunResults.from_json(a_summary())) is None
