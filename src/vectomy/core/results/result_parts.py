"""What several results hold: rates, paired tests, benchmark scores, answers, and who judged."""

from __future__ import annotations

from dataclasses import dataclass

from vectomy.core.results.json_record import JsonRecord, Number

__all__ = [
    "EditFile",
    "GivenAnswer",
    "Heading",
    "JudgeAgreementRecord",
    "JudgeRecord",
    "LossRow",
    "PairedOutcome",
    "PairedTest",
    "Rate",
    "StageCost",
    "TaskScore",
    "Version",
]

Version = str | int
"""Of a package, by its name."""


@dataclass(frozen=True)
class Heading:
    """The head of a column that shows a number, and its unit or explanation."""

    head: str
    hint: str = ""


class Rate(JsonRecord):
    """`count` of `total`, as a share in [0, 1] with Wilson's 95% interval. The answers that are
    `not_judged` are in neither.
    """

    count: int | None = None
    total: int | None = None
    rate: Number | None = None
    ci: tuple[Number, Number] | None = None
    not_judged: int | None = None
    minimum_detectable_effect: Number | None = None
    """The smallest true change of this rate that as many prompts would show (docs/judge.md); None
    where the errors of the judge were not measured.
    """


class PairedTest(JsonRecord):
    """McNemar's exact test on the same prompts."""

    gained: int | None = None
    lost: int | None = None
    p: Number | None = None


class PairedOutcome(PairedTest):
    """A behaviour before and after an edit on the same prompts: who lost and gained it, and how
    many answers are degenerate. A degenerate answer does not show the behaviour.
    """

    degenerate_before: int | None = None
    degenerate: int | None = None
    """After the edit."""
    lost_to_degenerate: int | None = None
    """Of the prompts that lost the behaviour, those whose answer is degenerate now."""
    lost_to_evasion: int | None = None
    """Of the prompts that lost the behaviour, those whose answer is an evasion now."""


class TaskScore(JsonRecord):
    """A benchmark: its value, and the paired difference from the base, with standard errors."""

    metric: str | None = None
    value: Number | None = None
    stderr: Number | None = None
    n: int | None = None
    difference: Number | None = None
    difference_stderr: Number | None = None


class JudgeAgreementRecord(JsonRecord):
    """The share of labelled answers on which the judge agrees with people."""

    rate: Number | None = None
    total: int | None = None
    data: str | None = None
    how: str | None = None


class JudgeRecord(JsonRecord):
    """Who judged the answers."""

    name: str | None = None
    version: Version | None = None
    note: str | None = None
    agreement: JudgeAgreementRecord | None = None


class GivenAnswer(JsonRecord):
    """A completion with its verdict; `p_refusal` is None where the judge gives no probability."""

    text: str | None = None
    verdict: str | None = None
    p_refusal: Number | None = None


class EditFile(JsonRecord):
    """The Edit: its file, and the sha256 of its content."""

    path: str | None = None
    sha256: str | None = None


class StageCost(JsonRecord):
    """What a stage took when it was done, whichever command did it."""

    seconds: Number | None = None
    processor_seconds: Number | None = None
    """Of all threads of the process, without its children; other programs do not lengthen them."""
    peak_memory_bytes: int | None = None
    """Resident bytes of the process and its children; None in a file of an earlier version."""
    peak_device_bytes: int | None = None
    """Bytes allocated on all cards together; None where no card was used."""


class LossRow(JsonRecord):
    """The losses of one step: `change`, `keep` and `hold` of a search, `loss` of a healing."""

    step: Number | None = None
    change: Number | None = None
    keep: Number | None = None
    hold: Number | None = None
    loss: Number | None = None
