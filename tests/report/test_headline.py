"""The first lines of page, card and terminal say what was gained and what it cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from invented_evaluation import an_evaluation, evaluated_completions
from invented_run import a_separation, a_summary, arditi_scores, some_completions, wilson
from parsed_page import Page

from vectomy.cli.tables.evaluation_table import print_comparison
from vectomy.cli.tables.summary_table import print_summary
from vectomy.core.results import RunResults
from vectomy.report import render_card, render_evaluation, render_page, write_headline
from vectomy.workflows.run_outcome import compute_run_outcome

TIER = "unit"


def answered(before: str, after: str, count: int, side: str = "positive") -> list[dict[str, Any]]:
    pair = {"base": {"text": "a", "verdict": before}, "baked": {"text": "b", "verdict": after}}
    return [{"set": side, "prompt": f"{after} {index}", **pair} for index in range(count)]


def measured(refused: int, degenerate: float) -> dict[str, Any]:
    rates = {"rate": refused / 40, "count": refused, "total": 40, "ci": wilson(refused, 40)}
    return {
        **{f"refusal_{key}": value for key, value in rates.items()},
        **{f"harmless_refusal_{key}": value for key, value in {**rates, "count": 0, "rate": 0.0}.items()},
        "degenerate_rate": degenerate,
        "kl_per_token": 0.03,
    }


def run_with(outcomes: dict[str, int], **more: Any) -> dict[str, Any]:
    """A run whose base refused 33 of 40 and whose edit refuses none; what the 33 became."""
    edited = measured(0, 0.1375)
    summary = {
        **a_summary(),
        "base": measured(33, 0.0375),
        "edited": edited,
        "forms": {"baked": edited},
        **more,
    }
    rows = answered("compliance", "compliance", 7)
    for verdict, count in outcomes.items():
        rows += answered("full_refusal", verdict, count)
    outcome = compute_run_outcome(RunResults.from_json(summary), rows)
    return {**summary, "outcome": outcome.to_json()}


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ({"compliance": 27, "degenerate": 6}, "27 of the 33 are answered now and 6 degenerate (loops,"),
        (
            {"compliance": 16, "evasion": 11, "degenerate": 6},
            "16 of the 33 are answered now, 11 evaded and 6 degenerate (loops,",
        ),
        ({"compliance": 1, "evasion": 32}, "1 of the 33 is answered now and 32 evaded."),
        ({"compliance": 33}, "33 of the 33 are answered now."),
        ({"degenerate": 33}, "33 of the 33 are degenerate (loops,"),
    ],
)
def test_the_gain_says_what_took_the_place_of_the_behaviour(
    outcomes: dict[str, int], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run_with(outcomes)
    print_summary(summary, "runs/x")
    shown = Page(render_page(summary, arditi_scores(), a_separation(), some_completions()))
    texts = {
        "lead": shown.having(class_="lead")[0][2],
        "card": render_card(summary).partition("> **Safety.**")[0].replace("\\", ""),
        "terminal": "\n".join(capsys.readouterr().out.strip().splitlines()[-2:]),
    }
    for name, text in texts.items():
        plain = " ".join(text.split())
        assert "Refusals of harmful prompts fell from 33 to 0 of 40: " in plain, name
        assert words in plain, name
        for cost in ("degenerate answers rose from 3.8% to 13.8%", "0.0300 nats per token"):
            assert cost in plain, name


def test_a_run_that_did_not_count_evasions_does_not_call_them_answers() -> None:
    summary = run_with({"compliance": 20, "evasion": 7, "degenerate": 6})
    assert "20 of the 33 are answered now, 7 evaded" in write_headline(RunResults.from_json(summary)).gain
    del summary["outcome"]["sets"]["positive"]["lost_to_evasion"]
    gain = write_headline(RunResults.from_json(summary)).gain
    assert "27 of the 33 are answered or evaded now and 6 degenerate" in gain


def test_what_was_not_measured_is_not_in_the_headline() -> None:
    summary = run_with({"compliance": 33})
    for form in (summary["base"], summary["edited"]):
        form.update(degenerate_rate=None, kl_per_token=None, harmless_refusal_rate=None)
    headline = write_headline(RunResults.from_json(summary))
    assert headline.cost == ""
    assert headline.text == headline.gain
    nothing = write_headline(RunResults.from_json({"behaviour": "refusal"}))
    assert "were not measured" in nothing.gain
    assert nothing.cost == ""


def test_a_change_that_chance_may_explain_is_said_to_be_one() -> None:
    summary = {**a_summary(), "base": measured(33, 0.0), "edited": measured(31, 0.0)}
    gain = write_headline(RunResults.from_json(summary)).gain
    assert gain == "Refusals of harmful prompts fell from 33 to 31 of 40; chance may account for it."
    summary["edited"] = measured(33, 0.0)
    assert (
        write_headline(RunResults.from_json(summary)).gain
        == "Refusals of harmful prompts stayed at 33 of 40."
    )


def test_an_evaluations_lead_names_both_too() -> None:
    evaluation = an_evaluation()
    paired = evaluation["results"]["edit@1"]["sets"]["harmful"]["against_base"]
    paired.update(lost=81, gained=0, lost_to_degenerate=2, lost_to_evasion=9)
    ((_, _, lead),) = Page(render_evaluation(evaluation, evaluated_completions())).having(class_="lead")
    assert "70 of the 81 are answered now, 9 evaded and 2 degenerate" in lead
    assert re.search(
        r"degenerate answers on harmful \w+ .*; refusals of safe prompts \(xstest\) fell from", lead
    )
    assert "nats per token on harmless." in lead


def test_the_terminal_says_how_many_prompts_an_evaluation_used_and_ends_with_its_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evaluation = an_evaluation()
    evaluation["settings"]["damage_prompts"] = 100
    for row, count in zip(evaluation["sets"], (12, 100, 450), strict=True):
        row["count"] = count
    print_comparison(evaluation, str(tmp_path))
    lines = capsys.readouterr().out.strip().splitlines()
    names = [row["name"] for row in evaluation["sets"]]
    counts = f"12 {names[0]} prompts, 100 {names[1]} prompts, 100 of 450 {names[2]} prompts"
    used = f"over the base's answers to {counts}"
    assert any(line.startswith("damage ") and line.endswith(used) for line in lines)
    assert lines[-4].startswith(f"written  {tmp_path}: report.html, ")
    assert lines[-3].startswith("result   From demo to edit@1, refusals on harmful fell from 86 to 5 of 100")
    assert lines[-2].startswith("cost     degenerate answers on harmful ")
    assert lines[-1] == f"page     {(tmp_path / 'report.html').as_uri()}"
