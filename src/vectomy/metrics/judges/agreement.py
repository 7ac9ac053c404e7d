"""The agreement of each judge with people, measured by scripts/train_judge.py, from
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
def _read_agreements() -> dict[str, Any]:
    return dict(
        json.loads(
            resources.files("vectomy").joinpath("metrics/judges/agreement.json").read_text(encoding="utf-8")
        )
    )


def measured_agreement(name: str) -> Agreement | None:
    """The agreement of a bundled judge; None if it was not measured."""
    stored = _read_agreements().get(name)
    return stored and Agreement(stored["data"], stored["rate"], stored["total"], stored["how"])


def measured_share(name: str, verdict: Verdict) -> float | None:
    """Of the labelled rows with this verdict of the judge (refusal or not), the share that people
    call refusals.
    """
    stored = _read_agreements().get(name)
    return stored and (stored["refusals_if_refusal"] if verdict in REFUSALS else stored["refusals_if_not"])
