"""The input and the result of every recipe.

A recipe is one function, `RecipeInput -> RecipeResult`; recipes.py lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vectomy.architecture import Writer
from vectomy.core.progress import Log, Progress, ignore, silent
from vectomy.core.run_config import RunConfig
from vectomy.core.run_folder import Journal
from vectomy.core.types import Vector
from vectomy.data.prompts import Prompt
from vectomy.data.splits import Splits
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.metrics.judges import Judge
from vectomy.models import ChatModel
from vectomy.search.estimators import Directions

__all__ = ["Ask", "Candidate", "Recipe", "RecipeInput", "RecipeResult", "Scores"]

Candidate = dict[str, Any]
"""A row of `candidates` in scores.json; its keys depend on the recipe."""
Scores = dict[str, Any]
"""The content of scores.json."""
Ask = Callable[[list[Candidate]], int]
"""Shows the candidates to a person and returns the rank that the person picks."""


class RecipeResult(NamedTuple):
    """What a recipe found.

    `scores` is the content of scores.json; its key `chosen` names a point of the residual stream.
    `frontier` holds the other Edits of a search by the file names that `scores` uses.
    """

    scores: Scores
    edit: Edit
    frontier: Mapping[str, Edit] = {}


@dataclass(frozen=True)
class RecipeInput:
    """Everything that a recipe may use.

    Attributes:
        base: the model that the Edit names as its base.
        writers: the writers that may be edited.
        directions: closed-form directions, at the sites and positions that the recipe needs.
        positive: prompts by split (`fit`, `search`) on which the base shows the behaviour.
        negative: prompts by split on which it does not.
        preserve: a third set, on which the behaviour must stay. Only selective recipes use it.
        answers: the base's greedy tokens on the search prompts, by side.
        tokens: first tokens of answers that show the behaviour; empty if they were not looked for.
        judge: None if no judge knows the behaviour.
        journal: stores each intermediate result, so that an interrupted search resumes.
        ask: asks a person to pick a candidate; None when nobody is there.
        log: takes a line for each edit that was tried.
    """

    config: RunConfig
    chat: ChatModel
    base: BaseModelRef
    writers: Sequence[Writer]
    directions: Directions
    positive: dict[str, list[Prompt]]
    negative: dict[str, list[Prompt]]
    preserve: Splits | None
    answers: dict[str, list[list[int]]]
    tokens: Sequence[int]
    judge: Judge | None
    journal: Journal
    ask: Ask | None = None
    progress: Progress = silent
    log: Log = ignore

    def log_tried(
        self, name: str, rate: float | None, kl: float | None, degenerate: float | None = None
    ) -> None:
        """Say what came of an edit that was tried on the search prompts.

        Args:
            name: of the edit.
            rate: share of the positive prompts that still show the behaviour.
            kl: nats on the negative ones.
            degenerate: share of answers that are loops or empty.
        """
        shown = "behaviour not measured" if rate is None else f"behaviour left {rate:.0%}"
        parts = [shown, *([f"KL {kl:.3f}"] if kl is not None else [])]
        parts += [f"degenerate {degenerate:.0%}"] if degenerate is not None else []
        self.log(f"tried {name}: {', '.join(parts)}")

    @property
    def teacher_forced(self) -> bool:
        """Whether edits are measured by the likelihood of openings instead of by generating, which
        reads a model that is read block by block for each token.
        """
        return self.chat.stream is not None

    def ablate_everywhere(self, scores: Scores, vector: Vector) -> RecipeResult:
        """The result that ablates one direction at every writer."""
        scores["chosen"]["norm"] = float(vector.norm())
        return RecipeResult(scores, Edit.from_directions(vector, self.base, self.writers))


Recipe = Callable[[RecipeInput], RecipeResult]
