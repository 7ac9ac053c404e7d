"""How far each judge agrees with people, as measured by scripts/train_judge.py and kept in
agreement.json.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from vectomy.metrics.judges.verdict import REFUSALS, Agreement, Verdict

__all__ = ["measured_agreement", "measured_share"]


@cache
def _measured() -> dict[str, Any]:
    return dict(
        json.loads(
            resources.files("vectomy").joinpath("metrics/judges/agreement.json").read_text(encoding="utf-8")
        )
    )


def measured_agreement(name: str) -> Agreement | None:
    """The agreement of a judge of the package; None for one that was not measured."""
    held = _measured().get(name)
    return held and Agreement(held["data"], held["rate"], held["total"], held["how"])


def measured_share(name: str, verdict: Verdict) -> float | None:
    """Share of people's refusals among the labelled rows that a judge calls refusals, or does not."""
    held = _measured().get(name)
    return held and (held["refusals_if_refusal"] if verdict in REFUSALS else held["refusals_if_not"])
