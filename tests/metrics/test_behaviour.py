"""Rates of verdicts, and lengths of answers, against values worked out by hand."""

import pytest
import tiny_chat

from vectomy.data.prompts import Labelled, Prompt
from vectomy.metrics.behaviour import behaviour_of, lengths, types_of
from vectomy.metrics.intervals import rate_of, share_of, share_of_most, wilson_interval
from vectomy.metrics.judges import RefusalJudge
from vectomy.metrics.verdicts import JudgedAnswers, judge_all

TIER = "unit"


def test_rates_have_their_interval_and_nothing_has_no_rate() -> None:
    assert rate_of([True, False, False, True]) == {
        "count": 2,
        "total": 4,
        "rate": 0.5,
        "ci": list(wilson_interval(2, 4)),
    }
    assert rate_of([]) == {"count": 0, "total": 0, "rate": None, "ci": [0.0, 1.0]}


def test_verdicts_are_counted_by_label_type_and_budget() -> None:
    kinds = [("pun", "safe"), ("pun", "safe"), ("plain", "unsafe"), (None, None)]
    rows = [Labelled(Prompt(str(at)), *kind) for at, kind in enumerate(kinds)]
    short = [JudgedAnswers("compliance")] * 4
    long = [
        JudgedAnswers("full_refusal"),
        JudgedAnswers("compliance"),
        JudgedAnswers("partial_refusal"),
        JudgedAnswers("degenerate"),
    ]
    found = behaviour_of(rows, {64: long, 8: short})
    assert found["verdicts"] == {
        "compliance": 1,
        "evasion": 0,
        "partial_refusal": 1,
        "full_refusal": 1,
        "degenerate": 1,
        "not_judged": 0,
    }
    assert (found["refusal"]["count"], found["degenerate"]["count"]) == (2, 1)
    assert found["by_label"] == {
        "safe": {"refusal": rate_of([True, False])},
        "unsafe": {"refusal": rate_of([True])},
    }
    assert found["by_type"]["pun"] == {"label": "safe", "refusal": rate_of([True, False])}
    assert list(found["by_budget"]) == ["8", "64"]
    assert found["by_budget"]["8"]["refusal"]["count"] == 0
    assert found["by_budget"]["64"]["degenerate"] == rate_of([False, False, False, True])
    assert types_of(rows) == [
        {"name": "pun", "label": "safe", "count": 2},
        {"name": "plain", "label": "unsafe", "count": 1},
    ]


def test_what_is_not_judged_is_in_no_rate() -> None:
    """Answers without a verdict change no other number than their own."""
    judged = [JudgedAnswers("full_refusal"), JudgedAnswers("compliance"), JudgedAnswers("degenerate")]
    rows = [Labelled(Prompt(str(at)), "pun", "safe") for at in range(5)]
    found = behaviour_of(rows, {8: [*judged, JudgedAnswers("not_judged"), JudgedAnswers("not_judged")]})
    alone = behaviour_of(rows[:3], {8: judged})
    assert found["verdicts"] == {**alone["verdicts"], "not_judged": 2}
    for name in ("refusal", "degenerate"):
        assert found[name] == {**alone[name], "not_judged": 2}
        assert found["by_budget"]["8"][name] == {**alone[name], "not_judged": 2}
    assert found["by_type"]["pun"]["refusal"] == {**alone["refusal"], "not_judged": 2}
    assert rate_of([None]) == {"count": 0, "total": 0, "rate": None, "ci": [0.0, 1.0], "not_judged": 1}
    assert share_of([None, True, False, None]) == 0.5
    assert share_of([None]) is None
    assert share_of_most([True, None]) == 1.0
    assert share_of_most([True, None, None]) is None


def test_lengths_and_repetition() -> None:
    found = lengths([[1, 2, 3], [4]], ["a b c d a b c d", "one two"])
    # Five runs of four words, one of which stood before.
    assert found == {"length_mean": 2.0, "repeated_share": pytest.approx(0.1)}


def test_verdicts_are_the_judges_own() -> None:
    judge, texts = RefusalJudge(), [tiny_chat.REFUSAL, "sure", ""]
    found = judge_all(judge, [Prompt("x"), Prompt("y"), Prompt("z")], texts)
    assert [one.verdict for one in found] == ["full_refusal", "compliance", "degenerate"]
    assert [one.refuses for one in found] == [True, False, False]
    assert [one.p_refusal for one in found] == [
        said.p_refusal for said in judge.judged(["x", "y", "z"], texts)
    ]
    refused, complied, _ = (one.p_refusal for one in found)
    assert refused is not None
    assert complied is not None
    assert refused > 0.5 > complied
