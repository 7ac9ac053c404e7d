"""The recipes by name, behind one signature: what a run knows by the time it selects -> scores.json
and an Edit.

A new recipe is a module of its own with a function that takes what it needs, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable

from vectomy.search.arditi import select_arditi
from vectomy.search.article import select_article
from vectomy.search.cosmic import select_cosmic
from vectomy.search.gradient.gradient_recipe import select_gradient
from vectomy.search.recipe import RecipeInput, RecipeResult
from vectomy.search.tpe.tpe_recipe import select_tpe

__all__ = ["RECIPES", "SEARCHES"]


def _article(task: RecipeInput) -> RecipeResult:
    c = task.config
    return task.from_directions(
        *select_article(
            task.chat,
            task.directions,
            task.positive["search"],
            c.selection,
            journal=task.journal,
            batch_tokens=c.runtime.batch_tokens,
            ask=task.ask,
            progress=task.progress,
        )
    )


def _arditi(task: RecipeInput) -> RecipeResult:
    c = task.config
    return task.from_directions(
        *select_arditi(
            task.chat,
            task.directions,
            task.positive["search"],
            task.negative["search"],
            task.tokens,
            c.selection,
            task.judge,
            writers=task.writers,
            answer_tokens=c.answer_tokens,
            journal=task.journal,
            batch_tokens=c.runtime.batch_tokens,
            progress=task.progress,
        )
    )


def _cosmic(task: RecipeInput) -> RecipeResult:
    c = task.config
    return task.from_directions(
        *select_cosmic(
            task.chat,
            task.directions,
            task.positive["search"],
            task.negative["search"],
            c.selection,
            writers=task.writers,
            journal=task.journal,
            batch_tokens=c.runtime.batch_tokens,
            progress=task.progress,
        )
    )


RECIPES: dict[str, Callable[[RecipeInput], RecipeResult]] = {
    "article": _article,
    "arditi": _arditi,
    "cosmic": _cosmic,
    "gradient": select_gradient,
    "selective": select_gradient,
    "tpe": select_tpe,
}

# Those that find a frontier of edits, and leave it in the run folder.
SEARCHES = ("gradient", "selective", "tpe")
