"""Directions of the tiny chat model's refusal, the prompts that recipes score them on, and the
RecipeInput that a run would make of both.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import tiny_chat
from tiny_chat import DAY, NIGHT

from vectomy.core.run_config import make_config
from vectomy.core.run_folder import Journal
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import BaseModelRef
from vectomy.metrics.judges import RefusalJudge
from vectomy.models import ChatModel
from vectomy.search.collect import collect
from vectomy.search.estimators import Directions, fit_directions
from vectomy.search.recipe import Ask, RecipeInput

TOKENS = [tiny_chat.VOCABULARY.index("I")]
POSITIVE, NEGATIVE = (tiny_chat.prompts(nouns, 8, seed=1) for nouns in (NIGHT, DAY))


@cache
def directions(sites: tuple[str, ...] = ("resid_pre",), estimator: str = "projected") -> Directions:
    chat = tiny_chat.chat()
    sides = [collect(chat, tiny_chat.prompts(n, 24), sites=sites, positions=[-2, -1]) for n in (NIGHT, DAY)]
    return fit_directions(*sides, estimator)


def recipe_input(
    path: Path,
    recipe: str,
    *,
    vectors: Directions | None = None,
    positive: list[Prompt] = POSITIVE,
    tokens: tuple[int, ...] = tuple(TOKENS),
    judged: bool = True,
    ask: Ask | None = None,
    chat: ChatModel | None = None,
    **options: Any,
) -> RecipeInput:
    """Args: `vectors` instead of `directions()`, `positive` search prompts, `options` of a run."""
    chat = chat or tiny_chat.chat()
    given = {"recipe": recipe, "device": "cpu", "answer_tokens": 8, **options}
    return RecipeInput(
        config=make_config(str(tiny_chat.folder()), given),
        chat=chat,
        base=BaseModelRef.of(chat.checkpoint),
        writers=chat.architecture.writers,
        directions=vectors or directions(),
        positive={"fit": [], "search": positive},
        negative={"fit": [], "search": NEGATIVE},
        preserve=None,
        answers={},
        tokens=tokens,
        judge=RefusalJudge() if judged else None,
        journal=Journal(path / "journal", given),
        ask=ask,
    )
