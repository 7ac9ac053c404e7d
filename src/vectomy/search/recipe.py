"""What a recipe is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vectomy.architecture import Writer
from vectomy.core.config import RunConfig
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import Journal
from vectomy.core.types import Vector
from vectomy.data.prompts import Prompt, Splits
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.metrics.judges import Judge
from vectomy.models import ChatModel
from vectomy.search.article import Ask
from vectomy.search.estimators import Directions

__all__ = ["RecipeInput", "RecipeResult"]


class RecipeResult(NamedTuple):
    """scores.json, whose `chosen` names a place of the stream; the Edit; other Edits that
    `frontier` in the scores names, by file.
    """

    scores: dict[str, Any]
    edit: Edit
    frontier: Mapping[str, Edit] = {}


@dataclass(frozen=True)
class RecipeInput:
    """All that a recipe may use.

    Prompts are those that the base treats as the contrast says, fit and search apart; `keep` are
    prompts that must go on to show the behaviour. `answers` are the base's greedy tokens on the
    search prompts, by side. `tokens` are its first tokens, where they were looked for. `judge` is
    None where there is no judge of the behaviour. `writers` are those that may be edited.
    """

    config: RunConfig
    chat: ChatModel
    base: BaseModelRef
    writers: Sequence[Writer]
    directions: Directions
    positive: dict[str, list[Prompt]]
    negative: dict[str, list[Prompt]]
    keep: Splits | None
    answers: dict[str, list[list[int]]]
    tokens: Sequence[int]
    judge: Judge | None
    journal: Journal
    ask: Ask | None = None
    progress: Progress = silent

    def from_directions(self, scores: dict[str, Any], vector: Vector) -> RecipeResult:
        """One direction, taken out of every writer."""
        scores["chosen"]["norm"] = float(vector.norm())
        return RecipeResult(scores, Edit.from_directions(vector, self.base, self.writers))
