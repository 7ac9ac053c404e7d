"""summary.json of a run that induces or removes a trait."""

from __future__ import annotations

from pydantic import Field

from vectomy.core.results.json_record import JsonObject, JsonRecord, Named, Number, Rows
from vectomy.core.results.result_parts import EditFile, Rate, Version

__all__ = [
    "ChosenStrength",
    "ScorerRecord",
    "TraitDivergence",
    "TraitEditFile",
    "TraitForm",
    "TraitRecord",
    "TraitResults",
]


class TraitForm(JsonRecord):
    """The base or a form of the edit: answers that show the trait, and degenerate ones."""

    name: str = ""
    shown: Rate = Rate()
    degenerate: Rate = Rate()
    length_mean: Number | None = None
    """Tokens of an answer."""


class TraitDivergence(JsonRecord):
    """KL(base || edited) and cross-entropy over the base's own answers, in nats."""

    kl_first_token: Number | None = None
    kl_per_token: Number | None = None
    ce_own_answers: Number | None = None


class ChosenStrength(JsonRecord):
    """The strength that was chosen, with its measures on the search prompts."""

    strength: Number | None = None
    layer: int | None = None
    shown: Number | None = None
    degenerate: Number | None = None
    kl: Number | None = None
    kl_first_token: Number | None = None


class TraitEditFile(EditFile):
    """The Edit, and how many writers it changes."""

    writers: int | None = None


class ScorerRecord(JsonRecord):
    """Who says whether an answer shows the trait."""

    name: str | None = None
    note: str | None = None


class TraitRecord(JsonRecord):
    """The trait file, as far as the page speaks of it."""

    name: str | None = None
    operation: str | None = None
    description: str | None = None
    safety: str | None = None
    form: str | None = None


class TraitResults(JsonRecord):
    """summary.json of a trait run."""

    format: str | None = None
    version: int | None = None
    model: str | None = None
    behaviour: str | None = None
    trait: TraitRecord = TraitRecord()
    settings: JsonObject = Field(default_factory=dict)
    scorer: ScorerRecord = ScorerRecord()
    prompts: Named[int] = Field(default_factory=dict)
    chosen: ChosenStrength = ChosenStrength()
    forms: Rows[TraitForm] = ()
    damage: TraitDivergence = TraitDivergence()
    note: str | None = None
    safety: str | None = None
    edit: TraitEditFile = TraitEditFile()
    checkpoint: str | None = None
    command: str | None = None
    seconds: Named[Number] = Field(default_factory=dict)
    versions: Named[Version] = Field(default_factory=dict)
