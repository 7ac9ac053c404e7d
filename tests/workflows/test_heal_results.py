"""What healing says of the behaviour: whether it came back."""

from typing import Any

import pytest

from vectomy.core.results import HealedNumbers
from vectomy.metrics.intervals import rate_of, wilson_interval
from vectomy.workflows.heal.heal_results import HEALED, compute_outcome, describe_outcome

TIER = "unit"


def test_whether_it_came_back_is_told_from_the_interval_of_the_edited_model() -> None:
    def model(count: int, kl: float, **changed: Any) -> HealedNumbers:
        flags = [True] * count + [False] * (40 - count)
        numbers = {"kl_first_token": kl, "kl_per_token": kl, "ce_own_answers": 1 + kl}
        return HealedNumbers.from_json({"refusal": rate_of(flags), "refused": flags, **numbers, **changed})

    # 2 of 40 is 1.4 to 16.5%: six of 40 (15%) are within it, seven are not.
    for healed, back in ((0, False), (6, False), (7, True), (33, True)):
        measures = {
            "before edit": model(33, 0.0),
            "after edit": model(2, 0.8),
            "after healing": model(healed, 0.2),
        }
        outcome = compute_outcome(measures)
        assert outcome.came_back is back
        assert outcome.recovered["kl_per_token"] == pytest.approx(0.75)
        text = describe_outcome("refusal", measures, outcome)
        assert ("it came back" in text) is back
        assert "33 of 40" in text
    unjudged = {"count": 0, "total": 0, "rate": None, "ci": [0.0, 1.0], "not_judged": 40}
    measures["after healing"] = model(0, 0.2, refusal=unjudged, refused=[None] * 40)
    outcome = compute_outcome(measures)
    assert outcome.came_back is None
    # As summary.json stores it: null is written where nothing is known.
    assert outcome.to_json() == {
        "recovered": dict.fromkeys(HEALED, pytest.approx(0.75)),
        "came_back": None,
        "allowed": wilson_interval(2, 40)[1],
        "paired": {"gained": 0, "lost": 0, "p": 1.0},
    }
    text = describe_outcome("refusal", measures, outcome)
    assert "whether the behaviour came back is not known" in text
    assert "40 answers could not be judged" in text
