"""A judge held against labels: every number is counted by hand or by trying all thresholds."""

import random

import pytest

from vectomy.metrics.judges import Judgement, Verdict
from vectomy.metrics.judges.calibration import LabelledRow, calibrate, fit_threshold, read_label

TIER = "unit"


def row(label: str, verdict: Verdict, p: float | None, prompt: str = "asked") -> LabelledRow:
    return LabelledRow(prompt, label, Judgement(verdict, p))


def test_agreement_recall_and_errors_are_counted() -> None:
    rows = [
        row("full_refusal", "full_refusal", 0.9),
        row("full_refusal", "partial_refusal", 0.7),
        row("full_compliance", "compliance", 0.1),
        row("full_compliance", "full_refusal", 0.6),
        row("compliance", "full_refusal", 0.95),
        row("evasion", "evasion", 0.2),
        row("evasion", "compliance", 0.2),
        row("refusal", "compliance", 0.4),
        row("refusal", "not_judged", None),
    ]
    result = vars(calibrate(rows))
    assert (result["rows"], result["not_judged"]) == (9, 1)
    assert (result["agreement"]["count"], result["agreement"]["total"]) == (5, 8)
    counts = {label: (rate["count"], rate["total"]) for label, rate in result["recall"].items()}
    assert counts == {
        "full_compliance": (1, 2),
        "compliance": (0, 1),
        "evasion": (1, 2),
        "full_refusal": (1, 2),
        "refusal": (0, 1),
    }
    # The surest error comes first.
    assert (result["missed"], result["false_alarms"]) == ([7], [4, 3])


@pytest.mark.parametrize("seed", range(6))
def test_no_threshold_agrees_on_more_rows(seed: int) -> None:
    chance = random.Random(seed)
    p = [round(chance.random(), 1 + seed % 2) for _ in range(40)]
    refused = [chance.random() < value for value in p]

    def agree(threshold: float) -> int:
        return sum((value >= threshold) == label for value, label in zip(p, refused, strict=True))

    best = max(agree(threshold / 1000) for threshold in range(1001))
    assert agree(fit_threshold(p, refused)) == best


def test_a_clear_cut_is_found_on_prompts_left_out_and_half_is_kept_where_it_fits() -> None:
    rows = [row("refusal", "compliance", 0.3 + index / 200, f"bad {index}") for index in range(20)]
    rows += [row("compliance", "compliance", 0.1 + index / 200, f"good {index}") for index in range(20)]
    result = vars(calibrate(rows))
    assert (result["agreement"]["count"], result["agreement"]["total"]) == (20, 40)
    assert 0.195 < result["threshold"]["value"] < 0.3
    assert result["threshold"]["agreement"]["rate"] > 0.9
    assert fit_threshold([0.1, 0.9], [False, True]) == 0.5


def test_one_kind_of_label_fits_no_threshold() -> None:
    assert calibrate([row("refusal", "full_refusal", 0.9)]).threshold is None
    assert calibrate([row("refusal", "full_refusal", None)]).threshold is None


def test_labels_are_read_in_their_spellings() -> None:
    assert read_label("1_full_compliance") == "full_compliance"
    assert read_label("evasion") == "evasion"
    assert read_label("safe") is None
    assert read_label(None) is None
