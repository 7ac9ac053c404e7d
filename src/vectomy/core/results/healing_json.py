"""summary.json and completions.jsonl of `vectomy heal`."""

from __future__ import annotations

from pydantic import Field

from vectomy.core.results.json_record import JsonObject, JsonRecord, Named, Number, Rows
from vectomy.core.results.result_parts import (
    GivenAnswer,
    JudgeRecord,
    LossRow,
    PairedTest,
    Rate,
    StageCost,
    TaskScore,
    Version,
)

__all__ = [
    "HealedEdit",
    "HealedNumbers",
    "HealingCompletion",
    "HealingOutcome",
    "HealingReceipt",
    "HealingResults",
    "HealingRows",
    "TrainingMachine",
    "TrainingRecord",
    "VerifiedEdit",
]


class HealedEdit(JsonRecord):
    """The Edit whose damage was healed, and what it says of itself."""

    sha256: str | None = None
    about: JsonObject = Field(default_factory=dict)


class HealingRows(JsonRecord):
    """The rows learned on, and those left out by the reason."""

    pairs: int | None = None
    left_out: Named[int] = Field(default_factory=dict)
    seconds_per_token: Number | None = None


class TrainingMachine(JsonRecord):
    """How the training was held in memory."""

    method: str | None = None


class TrainingRecord(JsonRecord):
    """The training of an adapter or of all weights."""

    steps: int | None = None
    machine: TrainingMachine = TrainingMachine()
    history: Rows[LossRow] = ()


class VerifiedEdit(JsonRecord):
    """Whether the healed checkpoint still carries the Edit, from its weights and its stream."""

    carried: int | None = None
    failures: Rows[str] = ()
    max_projection: Number | None = None
    how: str | None = None
    status: str | None = None
    reason: str | None = None


class HealingReceipt(JsonRecord):
    """What healing left of the removed directions.

    `learned_along` is the largest share, over the edited writers, of what was learned that lies
    along them.
    """

    changed: int | None = None
    writers: int | None = None
    projected: bool | None = None
    learned_along: Number | None = None
    learned_in: int | None = None
    verified: VerifiedEdit | None = None


class HealedNumbers(JsonRecord):
    """One of the three models on the held-out prompts. KL and cross-entropy are in nats."""

    refusal: Rate = Rate()
    harmless_refusal: Rate = Rate()
    degenerate: Rate = Rate()
    length_mean: Number | None = None
    repeated_share: Number | None = None
    refused: tuple[bool | None, ...] = ()
    """By positive prompt; None where the answer was not judged."""
    kl_first_token: Number | None = None
    kl_per_token: Number | None = None
    ce_own_answers: Number | None = None
    capability: Named[TaskScore] = Field(default_factory=dict)


class HealingOutcome(JsonRecord):
    """`recovered` is, by measure, the share of the edit's damage that is gone (1: as the base; None
    where there was none).

    The behaviour came back if the healed model shows it more often than `allowed`, the upper end of
    the edited model's interval.
    """

    recovered: dict[str, Number | None] = Field(default_factory=dict)
    came_back: bool | None = None
    allowed: Number | None = None
    paired: PairedTest | None = None


class HealingResults(JsonRecord):
    """summary.json of a healing."""

    format: str | None = None
    version: int | None = None
    behaviour: str | None = None
    model: str | None = None
    command: str | None = None
    config: JsonObject = Field(default_factory=dict)
    edit: HealedEdit | None = None
    rows: HealingRows = HealingRows()
    training: TrainingRecord | None = None
    learned: str | None = None
    """Where what was learned lies in the folder."""
    receipt: HealingReceipt = HealingReceipt()
    judge: JudgeRecord = JudgeRecord()
    models: Rows[str] = ()
    """Names of the models in their order: before the edit, after it, after healing."""
    measures: Named[HealedNumbers] = Field(default_factory=dict)
    outcome: HealingOutcome = HealingOutcome()
    sentence: str | None = None
    seconds: Named[Number] = Field(default_factory=dict)
    costs: Named[StageCost] = Field(default_factory=dict)
    """Seconds and peaks of memory by stage."""
    versions: Named[Version] = Field(default_factory=dict)

    @property
    def measured(self) -> dict[str, HealedNumbers]:
        """The numbers by model in the order of `models`: a file has its keys sorted."""
        return {name: self.measures[name] for name in self.models or self.measures if name in self.measures}


class HealingCompletion(JsonRecord):
    """The answers of the three models to one prompt."""

    set: str | None = None
    prompt: str | None = None
    answers: Named[GivenAnswer] = Field(default_factory=dict)
