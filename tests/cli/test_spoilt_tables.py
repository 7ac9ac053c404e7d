"""A table of the terminal shows what is left of results that were changed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from invented_evaluation import an_evaluation
from invented_run import a_summary, every, searched_summary, tpe_scores

from vectomy.cli.tables.evaluation_table import print_comparison
from vectomy.cli.tables.healing_table import print_healing
from vectomy.cli.tables.summary_table import print_summary

TIER = "tiny"

HEALING = {
    "behaviour": "refusal",
    "model": "demo",
    "config": {"objective": "sft"},
    "training": {"steps": 2, "machine": {"method": "lora"}},
    "receipt": {"learned_along": 1e-7, "learned_in": 2, "verified": {"carried": 4, "failures": []}},
    "judge": {"name": "refusals", "version": 3},
    "models": ["base", "healed"],
    "measures": {"base": {"refusal": {"count": 1, "total": 2}}, "healed": {"length_mean": 3.5}},
}
TABLES: list[tuple[Callable[[Any, str], None], dict[str, Any]]] = [
    (print_summary, a_summary()),
    (print_summary, searched_summary(tpe_scores())),
    (print_comparison, an_evaluation()),
    (print_healing, HEALING),
]


@pytest.mark.parametrize(("table", "results"), TABLES)
def test_each_key_may_be_spoilt_or_missing(
    table: Callable[[Any, str], None], results: dict[str, Any]
) -> None:
    for key in results:
        for value in ({}, [], 7, "text", None, [{}], {"x": {}}):
            table({**results, key: value}, "folder")
    table({}, "folder")


@pytest.mark.parametrize(("table", "results"), TABLES)
def test_brackets_in_names_are_no_markup(
    table: Callable[[Any, str], None], results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    table(every(results, "[/red]"), "folder")
    assert "[/red]" in capsys.readouterr().out


def test_an_absent_number_is_a_dash_and_an_absent_setting_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary({**a_summary(), "settings": {}, "base": {}}, "folder")
    printed = capsys.readouterr().out
    assert "an unrecorded number of greedy tokens" in printed
    assert "–" in printed
