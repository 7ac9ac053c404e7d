"""evaluation.json and completions.jsonl of `vectomy evaluate` (docs/evaluation-json.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vectomy.core.results.json_record import JsonObject, JsonRecord, Named, Number, Rows
from vectomy.core.results.result_parts import (
    GivenAnswer,
    Heading,
    JudgeRecord,
    PairedOutcome,
    Rate,
    StageCost,
    TaskScore,
    Version,
)

__all__ = [
    "ConditionNumbers",
    "EarlierTurn",
    "EvaluatedSet",
    "EvaluatedSubject",
    "EvaluationCompletion",
    "EvaluationResults",
    "GateResult",
    "PartNumbers",
    "PromptType",
    "SetNumbers",
    "SubjectNumbers",
    "TextPerplexity",
    "ToolCallNumbers",
]


class EvaluatedSubject(JsonRecord):
    """What is compared: the base, another model, an edit or a control."""

    name: str | None = None
    kind: str | None = None
    source: str | None = None
    of: str | None = None
    """The subject that it is compared with."""
    strength: Number | None = None
    sha256: str | None = None
    note: str | None = None


class PromptType(JsonRecord):
    """Prompts of one type in a set."""

    name: str | None = None
    label: str | None = None
    count: int | None = None


class EvaluatedSet(JsonRecord):
    """A prompt set; `sha256` is of the prompts that were measured."""

    name: str | None = None
    source: str | None = None
    sha256: str | None = None
    count: int | None = None
    types: Rows[PromptType] = ()


class PartNumbers(JsonRecord):
    """A subject on a set, or on the prompts of one label, type or token budget in it. KL and
    cross-entropy are in nats.
    """

    label: str | None = None
    refusal: Rate = Rate()
    degenerate: Rate = Rate()
    kl_first_token: Annotated[Number | None, Heading("KL, first token", "nats")] = None
    kl_per_token: Annotated[Number | None, Heading("KL per token", "nats")] = None
    kl_per_token_stderr: Annotated[Number | None, Heading("KL per token ±", "standard error")] = None
    ce_own_answers: Annotated[Number | None, Heading("CE of base's answers", "nats a token")] = None


class SetNumbers(PartNumbers):
    """A subject on a whole set. A number with a `Heading` is a column of the page's table."""

    verdicts: Named[Number] = Field(default_factory=dict)
    by_label: Named[PartNumbers] = Field(default_factory=dict)
    by_type: Named[PartNumbers] = Field(default_factory=dict)
    by_budget: Named[PartNumbers] = Field(default_factory=dict)
    """By the number of tokens after which the answer is cut off, as text."""
    refusal_without_thinking: Rate | None = None
    """Of a model that thinks: where it answers without a thought."""
    against_base: PairedOutcome | None = None
    length_mean: Annotated[Number | None, Heading("Length", "tokens")] = None
    """Tokens of an answer."""
    length_ratio: Annotated[Number | None, Heading("Length", "of the base's")] = None
    repeated_share: Annotated[Number | None, Heading("Repeated", "runs of four words")] = None


class TextPerplexity(JsonRecord):
    """Of a text, in nats a token and as perplexity."""

    nats_per_token: Number | None = None
    perplexity: Number | None = None
    tokens: int | None = None


class ConditionNumbers(JsonRecord):
    """Prompts after an earlier exchange, or at the end of a long text of `tokens` tokens."""

    refusal: Rate = Rate()
    degenerate: Rate = Rate()
    answered: Rate = Rate()
    tokens: int | None = None


class ToolCallNumbers(JsonRecord):
    """Answers that call the tool with arguments that fit its schema."""

    valid: Rate = Rate()


class SubjectNumbers(JsonRecord):
    """Everything measured of one subject."""

    sets: Named[SetNumbers] = Field(default_factory=dict)
    perplexity: Named[TextPerplexity] = Field(default_factory=dict)
    multi_turn: ConditionNumbers | None = None
    long_context: ConditionNumbers | None = None
    tool_calls: ToolCallNumbers | None = None
    capability: Named[TaskScore] = Field(default_factory=dict)


class GateResult(JsonRecord):
    """A limit, and whether a subject meets it: `met`, `missed` or `unresolved`."""

    gate: str | None = None
    """As it was written."""
    subject: str | None = None
    set: str | None = None
    label: str | None = None
    measure: str | None = None
    value: Number | None = None
    ci: tuple[Number, Number] | None = None
    """95% interval; None where none was measured."""
    limit: Number | None = None
    """The number that the value is compared with: the base's where the gate says so."""
    status: str | None = None


class EvaluationResults(JsonRecord):
    """evaluation.json."""

    format: str | None = None
    version: int | None = None
    behaviour: str | None = None
    command: str | None = None
    base: str | None = None
    """The subject that others are compared with."""
    judge: JudgeRecord = JudgeRecord()
    settings: JsonObject = Field(default_factory=dict)
    versions: Named[Version] = Field(default_factory=dict)
    subjects: Rows[EvaluatedSubject] = ()
    sets: Rows[EvaluatedSet] = ()
    seconds: Named[Number] = Field(default_factory=dict)
    costs: Named[StageCost] = Field(default_factory=dict)
    """Seconds and peaks of memory by subject, over all its measurements."""
    results: Named[SubjectNumbers] = Field(default_factory=dict)
    gates: Rows[GateResult] = ()


class EarlierTurn(JsonRecord):
    """An earlier turn of a conversation."""

    role: str | None = None
    content: str | None = None


class EvaluationCompletion(JsonRecord):
    """The answers of all subjects to one prompt."""

    set: str | None = None
    type: str | None = None
    label: str | None = None
    prompt: str | None = None
    history: Rows[EarlierTurn] = ()
    answers: Named[GivenAnswer] = Field(default_factory=dict)
