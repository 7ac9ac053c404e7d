"""The tables of the terminal name the answers that were not judged, and show no rate of nothing."""

import pytest
from invented_evaluation import an_evaluation
from invented_run import a_summary

from vectomy.cli.tables.evaluation_table import print_comparison
from vectomy.cli.tables.summary_table import print_summary
from vectomy.report import healing_rows

TIER = "unit"

SOME = {"count": 3, "total": 36, "rate": 3 / 36, "ci": [0.03, 0.22], "not_judged": 24}
NONE = {"count": 0, "total": 0, "rate": None, "ci": [0.0, 1.0], "not_judged": 60}


@pytest.mark.parametrize(("rate", "shown"), [(SOME, "3/36"), (NONE, "60 not judged")])
def test_an_evaluation(rate: dict[str, object], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = an_evaluation()
    evaluation["settings"]["damage_prompts"] = 100
    evaluation["results"]["edit@1"]["sets"]["harmful"]["refusal"] = rate
    print_comparison(evaluation, "folder")
    printed = capsys.readouterr().out
    assert shown in printed
    assert f"{rate['not_judged']} not judged" in printed
    assert "0/0" not in printed


@pytest.mark.parametrize(("rate", "shown"), [(SOME, "3/36"), (NONE, "60 not judged")])
def test_a_run(rate: dict[str, object], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    summary = a_summary()
    summary["base"] |= {f"refusal_{key}": value for key, value in rate.items()}
    print_summary(summary, "folder")
    printed = capsys.readouterr().out
    assert shown in printed
    assert f"{rate['not_judged']} not judged" in printed
    assert "0/0" not in printed


def test_a_healing() -> None:
    rows = dict(healing_rows({"measures": {"base": {"refusal": SOME}, "edited": {"refusal": NONE}}}))
    assert rows["refusals"] == ["3/36 (3.0–22.0%), 24 not judged", "60 not judged"]
