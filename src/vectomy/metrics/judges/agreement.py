"""The agreement of each judge with people, measured by scripts/train_judge.py, from
agreement.json.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from vectomy.core.results.json_record import Number
from vectomy.core.results.result_parts import JudgeAgreementRecord
from vectomy.metrics.judges.verdict import REFUSALS, Agreement, JudgeErrors, Verdict

__all__ = ["measured_agreement", "measured_errors", "measured_share"]


class MeasuredAgreement(JudgeAgreementRecord):
    """A judge's entry in agreement.json: of the rows that it calls refusals, and of the others, the
    share that people call refusals.
    """

    refusals_if_refusal: Number | None = None
    refusals_if_not: Number | None = None


@cache
def _read_agreements() -> dict[str, MeasuredAgreement]:
    file = resources.files("vectomy").joinpath("metrics/judges/agreement.json")
    stored = json.loads(file.read_text(encoding="utf-8"))
    return {name: MeasuredAgreement.from_json(entry) for name, entry in stored.items()}


def measured_agreement(name: str) -> Agreement | None:
    """The agreement of a bundled judge; None if it was not measured."""
    stored = _read_agreements().get(name)
    if stored is None or stored.rate is None or stored.total is None:
        return None
    return Agreement(str(stored.data), stored.rate, stored.total, str(stored.how))


def measured_share(name: str, verdict: Verdict) -> float | None:
    """Of the labelled rows with this verdict of the judge (refusal or not), the share that people
    call refusals.
    """
    stored = _read_agreements().get(name)
    if stored is None:
        return None
    return stored.refusals_if_refusal if verdict in REFUSALS else stored.refusals_if_not


def measured_errors(name: str) -> JudgeErrors | None:
    """The error rates of a judge on the labelled rows; None if they were not measured.

    They follow from the share of agreement r, the share a of its refusals that people call refusals
    and the share b of the others that they do: r = qa + (1 - q)(1 - b) gives the share q of rows
    that the judge calls refusals.
    """
    stored = _read_agreements().get(name)
    if stored is None or None in (stored.rate, stored.refusals_if_refusal, stored.refusals_if_not):
        return None
    rate, hit, miss = (
        float(value or 0.0) for value in (stored.rate, stored.refusals_if_refusal, stored.refusals_if_not)
    )
    if hit + miss == 1:
        return None
    called = (rate - (1 - miss)) / (hit - (1 - miss))
    refused = called * hit + (1 - called) * miss
    if not (0 < called < 1 and 0 < refused < 1):
        return None
    return JudgeErrors(sensitivity=called * hit / refused, false_refusals=called * (1 - hit) / (1 - refused))
