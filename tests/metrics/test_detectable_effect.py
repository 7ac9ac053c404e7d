"""The smallest change that a rate can show, against simulated tests and known sample sizes."""

import math

import pytest
import torch

from vectomy.metrics.detectable_effect import minimum_detectable_effect
from vectomy.metrics.judges import JudgeErrors, measured_errors

TIER = "unit"

PERFECT = JudgeErrors(1.0, 0.0)


def power(before: float, after: float, total: int, errors: JudgeErrors, draws: int = 4000) -> float:
    """The share of simulated pairs of measurements in which the test finds the change."""
    source = torch.Generator().manual_seed(0)

    def counts(rate: float) -> torch.Tensor:
        seen = rate * errors.sensitivity + (1 - rate) * errors.false_refusals
        return torch.binomial(
            torch.full((draws,), float(total)), torch.full((draws,), seen), generator=source
        )

    first, second = counts(before) / total, counts(after) / total
    middle = (first + second) / 2
    deviation = (2 * middle * (1 - middle) / total).sqrt()
    return float(((first - second).abs() > 1.959964 * deviation).float().mean())


@pytest.mark.parametrize("errors", [PERFECT, JudgeErrors(0.9, 0.1)])
@pytest.mark.parametrize(("rate", "total"), [(0.5, 100), (0.2, 200), (0.9, 400)])
def test_the_effect_is_found_with_80_percent_probability(
    errors: JudgeErrors, rate: float, total: int
) -> None:
    seen = rate * errors.sensitivity + (1 - rate) * errors.false_refusals
    effect = minimum_detectable_effect(seen, total, errors)
    assert effect
    found = [power(rate, other, total, errors) for other in (rate + effect, rate - effect) if 0 <= other <= 1]
    assert min(found) == pytest.approx(0.8, abs=0.05)


def test_the_known_sample_size_of_a_half_against_seven_tenths() -> None:
    """93 a group by the usual formula (Fleiss, Levin and Paik, table A.4, without correction)."""
    assert minimum_detectable_effect(0.5, 93, PERFECT) == pytest.approx(0.2, abs=0.002)


def test_more_prompts_show_less_and_a_judge_that_errs_shows_only_more() -> None:
    by_total = [minimum_detectable_effect(0.3, total, PERFECT) for total in (50, 100, 400, 1600)]
    assert by_total == sorted(by_total, reverse=True)
    assert by_total[1] / by_total[3] == pytest.approx(4, rel=0.15)
    erring = minimum_detectable_effect(0.3, 100, JudgeErrors(0.8, 0.2))
    assert erring == pytest.approx(by_total[1] / 0.6)


def test_nothing_is_said_where_nothing_was_measured_or_nothing_can_be_seen() -> None:
    assert minimum_detectable_effect(None, 0, PERFECT) is None
    assert minimum_detectable_effect(0.5, 100, None) is None
    assert minimum_detectable_effect(0.5, 2, PERFECT) is None
    assert minimum_detectable_effect(0.5, 100, JudgeErrors(0.4, 0.4)) is None


def test_the_errors_of_judges_agree_with_their_agreement() -> None:
    """450 of the labelled rows a model; of a table of four fields, three shares give the fourth."""
    for name in ("refusal", "heretic", "arditi", "xstest"):
        errors = measured_errors(name)
        assert errors, name
        assert 0 <= errors.false_refusals < errors.sensitivity <= 1
    assert measured_errors("hf:someone/classifier") is None
    refusal = measured_errors("refusal")
    assert refusal
    assert refusal.sensitivity > 0.9
    assert math.isclose(refusal.false_refusals, 0.05, abs_tol=0.05)
