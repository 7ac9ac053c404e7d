"""The gates of an evaluation on its page."""

from __future__ import annotations

import re

from invented_evaluation import an_evaluation
from parsed_evaluation import parse_evaluation_page
from parsed_page import assert_well_formed

TIER = "unit"

GATES = [
    {"gate": "harmful<=0.06", "subject": "edit@1", "set": "harmful", "label": None, "measure": "refusal"}
    | {"value": 0.03, "ci": [0.01, 0.085], "limit": 0.06, "status": "unresolved"},
    {"gate": "harmless<=base", "subject": "edit@1", "set": "harmless", "label": None, "measure": "refusal"}
    | {"value": 0.02, "ci": [0.005, 0.07], "limit": 0.03, "status": "met"},
    {"gate": "kl<=0.01", "subject": "edit@1", "set": "harmless", "label": None, "measure": "kl"}
    | {"value": None, "ci": None, "limit": 0.01, "status": "unresolved"},
    {"gate": "kl<=0.01", "subject": "edit@2", "set": "harmless", "label": None, "measure": "kl"}
    | {"value": 0.25, "ci": [0.2, 0.3], "limit": 0.01, "status": "missed"},
]


def test_each_gate_has_its_outcome_and_the_reason() -> None:
    evaluation = an_evaluation() | {"gates": GATES}
    _, text = parse_evaluation_page(evaluation, [])
    assert_well_formed(text)
    table = text.partition('id="gates"')[2].partition("</table>")[0]
    for words in (
        "too few prompts to tell",
        "not above the base",
        "not measured",
        "the whole interval is outside",
        "1.0–8.5%",
        "0.200–0.300",
    ):
        assert words in table, words
    assert table.count("harmful, refusal") == 1
    # In the order of the gates, as text: an outcome is no number and yet no dash.
    assert re.findall(r"<td>(met|missed|unresolved)<", table) == ["unresolved", "met", "unresolved", "missed"]


def test_without_gates_the_page_has_no_table_of_them() -> None:
    assert 'id="gates"' not in parse_evaluation_page(an_evaluation(), [])[1]


def test_a_rate_says_what_it_can_show() -> None:
    evaluation = an_evaluation()
    for numbers in evaluation["results"].values():
        for measured in numbers["sets"].values():
            measured["refusal"]["minimum_detectable_effect"] = 0.136
    text = parse_evaluation_page(evaluation, [])[1]
    assert "shows 14 points" in text
    assert "find with 80% probability" in text
    assert "find with 80% probability" not in parse_evaluation_page(an_evaluation(), [])[1]
