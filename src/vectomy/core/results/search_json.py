"""scores.json and separation.json of a run: the candidates of the search, and the two prompt sets
along the chosen direction.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vectomy.core.json_value import JsonValue
from vectomy.core.results.json_record import JsonObject, JsonRecord, Named, Number, Numbers, Rows
from vectomy.core.results.result_parts import LossRow

__all__ = [
    "Candidate",
    "CandidateAnswer",
    "DirectionPlace",
    "LayerSeparation",
    "PrincipalPlane",
    "SearchResults",
    "Separation",
    "WriterStrengths",
]


Layer = Annotated[int, Field(ge=0, le=10_000)]
"""Of a model; charts have a column for each up to the largest."""


class DirectionPlace(JsonRecord):
    """Where in the residual stream a direction was read."""

    site: str | None = None
    layer: Layer | None = None
    position: int | None = None
    """Of the token, from the end of the prompt: -1 is the last."""
    token: str | None = None
    norm: Number | None = None
    strength: Number | None = None
    """Of the dial: what was learned, times this. None means 1."""
    step: int | None = None
    """Of the search that learned the edit: the step that it was taken at."""


def edit_key(number: int | None, strength: Number | None) -> tuple[int, float] | None:
    """What tells the edits of a search apart: the step or trial, and the strength of the dial."""
    if number is None:
        return None
    return number, float(strength) if isinstance(strength, int | float) else 1.0


class CandidateAnswer(JsonRecord):
    """An answer with a candidate direction ablated; `dropped` if it is a refusal."""

    prompt: str | None = None
    completion: str | None = None
    dropped: bool | None = None


class Candidate(DirectionPlace):
    """A direction with its scores, or a whole edit (`step` or `number`) with its measures."""

    rejected: str | None = None
    """Why it is out of the choice."""
    refusal_score: Number | None = None
    steering_score: Number | None = None
    kl_div_score: Number | None = None
    score: Number | None = None
    induced: Number | None = None
    removed: Number | None = None
    rank: int | None = None
    dropped: int | None = None
    answers: Rows[CandidateAnswer] = ()
    number: int | None = None
    """Of the trial."""
    kl: Number | None = None
    kl_first_token: Number | None = None
    rate: Number | None = None
    """Share of the positive search prompts on which the behaviour is left."""
    degenerate: Number | None = None
    """Share of the answers to these prompts that are loops or empty."""
    held: Number | None = None
    """Share of the prompts to keep on which the behaviour is left; `held_base` is the base's."""
    held_base: Number | None = None
    writers: int | None = None
    edit: str | None = None
    direction: DirectionPlace | None = None
    """Of a trial: the layer that it changes most."""

    @property
    def is_direction(self) -> bool:
        """It lies at a layer; otherwise it is a whole edit."""
        return "layer" in self.model_fields_set

    @property
    def is_step(self) -> bool:
        """It is an edit that a search had learned after so many steps."""
        return "step" in self.model_fields_set

    @property
    def edit_key(self) -> tuple[int, float] | None:
        """The step or trial of a whole edit, and its strength."""
        return edit_key(self.step if self.is_step else self.number, self.strength)

    @property
    def passed(self) -> bool:
        """arditi's filters let it through, or the article's recipe let it answer."""
        return not self.rejected if "rejected" in self.model_fields_set else bool(self.answers)


class WriterStrengths(JsonRecord):
    """The strengths of one writer, one for each direction; the layer is None in front of the first
    block.
    """

    layer: Layer | None = None
    component: str | None = None
    strengths: Numbers = ()


class SearchResults(JsonRecord):
    """scores.json: every candidate of a recipe, and the one that was chosen."""

    recipe: str | None = None
    operation: str | None = None
    """Of a trait: induce or remove."""
    form: str | None = None
    examples: JsonValue = None
    candidates: Rows[Candidate] = ()
    frontier: Rows[Candidate] = ()
    """Edits of which no other is better in both behaviour and KL."""
    chosen: DirectionPlace | None = None
    trial: int | None = None
    """The number of the chosen candidate of a search by trials."""
    baseline: Named[Number] = Field(default_factory=dict)
    thresholds: JsonObject = Field(default_factory=dict)
    how: str | None = None
    note: str | None = None
    compared_layers: tuple[Layer, ...] = ()
    strengths: Rows[WriterStrengths] = ()
    history: Rows[LossRow] = ()

    @property
    def is_of_edits(self) -> bool:
        """Whether the candidates are whole edits, not directions that lie at a layer."""
        return bool(self.candidates) and not any(one.is_direction for one in self.candidates)

    @property
    def chosen_edit(self) -> tuple[int, float] | None:
        """The `edit_key` of the chosen edit: of the step or trial, and its strength."""
        if self.chosen is not None and "step" in self.chosen.model_fields_set:
            return edit_key(self.chosen.step, self.chosen.strength)
        return edit_key(self.trial, None)


class LayerSeparation(JsonRecord):
    """Projections of both sets on the direction at one layer."""

    layer: Layer = 0
    positive_mean: Number | None = None
    positive_std: Number | None = None
    negative_mean: Number | None = None
    negative_std: Number | None = None
    auroc: Number | None = None


class PrincipalPlane(JsonRecord):
    """Prompts on the first two principal components of both sets together."""

    positive: Rows[tuple[Number | None, ...]] = ()
    negative: Rows[tuple[Number | None, ...]] = ()
    explained: tuple[Number | None, ...] = ()
    """Share of the variance by component."""
    direction: tuple[Number | None, ...] = ()
    """The cosines of the direction with both."""
    layer: Layer | None = None


class Separation(JsonRecord):
    """separation.json: the two prompt sets projected on the chosen direction."""

    site: str | None = None
    layer: Layer | None = None
    position: int | None = None
    layers: Rows[LayerSeparation] = ()
    pca: PrincipalPlane | None = None
    """At the chosen layer."""
    planes: Rows[PrincipalPlane] = ()
    """At several layers; absent in runs that kept the chosen layer alone."""
    positive: Numbers = ()
    negative: Numbers = ()
