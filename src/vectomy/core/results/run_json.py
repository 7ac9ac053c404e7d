"""summary.json and completions.jsonl of `vectomy run`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vectomy.core.results.json_record import JsonObject, JsonRecord, Named, Number, Rows
from vectomy.core.results.result_parts import (
    EditFile,
    GivenAnswer,
    JudgeRecord,
    PairedOutcome,
    Rate,
    StageCost,
    Version,
)
from vectomy.core.results.search_json import DirectionPlace

__all__ = [
    "ContrastRecord",
    "FormMetrics",
    "RateName",
    "ReceiptRecord",
    "RunCompletion",
    "RunOutcome",
    "RunResults",
    "RunTrait",
    "StrengthRange",
]

RateName = Literal["refusal", "harmless_refusal", "keep_refusal"]


class FormMetrics(JsonRecord):
    """The base, or one form of the edit, on the test prompts. KL and cross-entropy are in nats."""

    strength: Number | None = None
    """Of the dial, that the search chose: what was learned, times this."""
    refusal_rate: Number | None = None
    refusal_count: int | None = None
    refusal_total: int | None = None
    refusal_ci: tuple[Number, Number] | None = None
    refusal_not_judged: int | None = None
    """Answers without a verdict; they are in no rate."""
    refusal_without_thinking: Rate | None = None
    """On the positive prompts, of a model that thinks: where it answers without a thought."""
    minimum_detectable_effect: Number | None = None
    """Of `refusal_rate`: the smallest true change that as many prompts would show."""
    answer_tokens: int | None = None
    """Most tokens of an answer."""
    by_length: Named[Number] = Field(default_factory=dict)
    """`refusal_rate` of the same answers, cut off after so many tokens."""
    harmless_refusal_rate: Number | None = None
    harmless_refusal_count: int | None = None
    harmless_refusal_total: int | None = None
    harmless_refusal_ci: tuple[Number, Number] | None = None
    harmless_refusal_not_judged: int | None = None
    keep_refusal_rate: Number | None = None
    keep_refusal_count: int | None = None
    keep_refusal_total: int | None = None
    keep_refusal_ci: tuple[Number, Number] | None = None
    keep_refusal_not_judged: int | None = None
    opening_rate: Number | None = None
    """Without generating: the share of positive prompts on which the base's refusal openings keep
    at least half of the probability that the base gives them.
    """
    opening_count: int | None = None
    opening_total: int | None = None
    opening_ci: tuple[Number, Number] | None = None
    opening_not_judged: int | None = None
    opening_kept: Number | None = None
    """The mean share of that probability that is left, over the prompts that the base refuses."""
    degenerate_rate: Number | None = None
    evasion_rate: Number | None = None
    """On the positive prompts: answers that neither refuse nor do what was asked."""
    kl_first_token: Number | None = None
    kl_per_token: Number | None = None
    kl_per_token_stderr: Number | None = None
    ce_own_answers: Number | None = None
    max_projection: Number | None = None

    def rate(self, name: RateName) -> Rate:
        """The rate `name` with its count and interval."""
        return Rate(
            rate=getattr(self, f"{name}_rate"),
            count=getattr(self, f"{name}_count"),
            total=getattr(self, f"{name}_total"),
            ci=getattr(self, f"{name}_ci"),
            not_judged=getattr(self, f"{name}_not_judged"),
        )

    @property
    def has_preserve_set(self) -> bool:
        """Whether prompts to keep were among those measured."""
        return "keep_refusal_rate" in self.model_fields_set


class ContrastRecord(JsonRecord):
    """Where the prompts came from, and how many were used by side and split."""

    positive: str | None = None
    positive_search: str | None = None
    positive_test: str | None = None
    negative: str | None = None
    negative_search: str | None = None
    negative_test: str | None = None
    keep: str | None = None
    keep_search: str | None = None
    keep_test: str | None = None
    sources: Named[JsonObject] = Field(default_factory=dict)
    counts: Named[Named[int]] = Field(default_factory=dict)

    def source(self, side: str, split: str) -> str:
        """The source of a split; without one of its own it was cut from the fit source."""
        return str(getattr(self, f"{side}_{split}", None) or getattr(self, side) or "")


class StrengthRange(JsonRecord):
    """The strengths of an edit that has one for each writer."""

    lowest: Number | None = None
    highest: Number | None = None
    writers: int | None = None
    directions: int | None = None
    shared: bool | None = True
    """All writers are edited along the same directions."""


class ReceiptRecord(JsonRecord):
    """What baking changed, and what is left of the directions, measured on the checkpoint."""

    edited: Rows[str] = ()
    left: Rows[tuple[str, str]] = ()
    """Writers that are not edited, each with the reason."""
    parameters: int | None = None
    notes: Rows[str] = ()
    rounding: Named[Number] = Field(default_factory=dict)
    residue: Named[Number] = Field(default_factory=dict)
    projection: tuple[Number | None, ...] | None = None
    """Largest |r.x| / |x| of the stream: before the first block, then behind each layer."""
    max_projection: Number | None = None
    how: str | None = None
    failures: Rows[str] = ()
    status: str | None = None
    """`carried`, `not_carried` or `unknown`; None where a bake found nothing wrong."""
    reason: str | None = None
    added: Rows[str] = ()
    """Biases that the base does not have and that hold the edit's vectors."""


class RunTrait(JsonRecord):
    """The trait that an edit of recipe `distill` induces or removes."""

    name: str | None = None
    operation: str | None = None
    form: str | None = None
    writers: int | None = None
    safety: str | None = None


class RunOutcome(JsonRecord):
    """What the edit did to its behaviour.

    `effect` is a word (docs/glossary.md), `sentence` the claim that the numbers carry, and `sets`
    compares base and edited model prompt by prompt, by set (`positive`, `negative`, `keep`).
    """

    effect: str | None = None
    sentence: str | None = None
    sets: Named[PairedOutcome] = Field(default_factory=dict)


class RunResults(JsonRecord):
    """summary.json of a run. Of an Edit made by hand, as much of it as is known."""

    format: str | None = None
    version: int | None = None
    model: str | None = None
    base_model: str | None = None
    revision: str | None = None
    """The base's commit on the Hub."""
    license: str | dict[str, str] | None = None
    """Of the base: its name, or the keys that a card's front matter gives it."""
    behaviour: str | None = None
    recipe: str | None = None
    estimator: str | None = None
    seed: int | None = None
    command: str | None = None
    versions: Named[Version] = Field(default_factory=dict)
    contrast: ContrastRecord = ContrastRecord()
    settings: JsonObject = Field(default_factory=dict)
    judge: JudgeRecord = JudgeRecord()
    base: FormMetrics = FormMetrics()
    edited: FormMetrics = FormMetrics()
    """The baked form where there is one, else the hooks."""
    outcome: RunOutcome | None = None
    forms: Named[FormMetrics] = Field(default_factory=dict)
    direction: DirectionPlace | None = None
    strength: Number | StrengthRange | None = None
    trait: RunTrait | None = None
    notes: Rows[str] = ()
    receipt: ReceiptRecord | None = None
    stages: Named[Number] = Field(default_factory=dict)
    """Seconds by stage."""
    costs: Named[StageCost] = Field(default_factory=dict)
    """Seconds and peaks of memory by stage."""
    planned: JsonObject | None = None
    """Counts of the model (`shape`) and of the run (`work`), which `vectomy plan --from` reads."""
    searched_on: str | None = None
    """The dtype of the weights that the search ran on, or their quantisation (4bit, 8bit, fp8)."""
    edit: EditFile = EditFile()
    checkpoint: str | None = None
    safety: str | None = None

    def __repr__(self) -> str:
        told = self.outcome.sentence if self.outcome and self.outcome.sentence else "not measured"
        return f"<RunResults of {self.model!s:.50}: {told:.120}>"


class RunCompletion(JsonRecord):
    """The answers of the base and of each form of the edit to a test prompt."""

    set: str | None = None
    prompt: str | None = None
    base: GivenAnswer | None = None
    hooks: GivenAnswer | None = None
    lora: GivenAnswer | None = None
    baked: GivenAnswer | None = None
    base_full: GivenAnswer | None = None
    """Of the base in full precision, where the others are of quantised weights."""
    baked_full: GivenAnswer | None = None

    @property
    def answers(self) -> dict[str, GivenAnswer]:
        """By form, those that answered."""
        names = ("base", "hooks", "lora", "baked", "base_full", "baked_full")
        given = {name: getattr(self, name) for name in names}
        return {form: answer for form, answer in given.items() if answer is not None}
