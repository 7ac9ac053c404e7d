"""Directions of the tiny chat model's refusal, and the prompts that recipes score them on."""

from __future__ import annotations

from functools import cache

import tiny_chat
from tiny_chat import DAY, NIGHT

from vectomy.search.collect import collect
from vectomy.search.estimators import Directions, fit_directions

TOKENS = [tiny_chat.VOCABULARY.index("I")]
POSITIVE, NEGATIVE = (tiny_chat.prompts(nouns, 8, seed=1) for nouns in (NIGHT, DAY))


@cache
def directions(sites: tuple[str, ...] = ("resid_pre",), estimator: str = "projected") -> Directions:
    chat = tiny_chat.chat()
    sides = [collect(chat, tiny_chat.prompts(n, 24), sites=sites, positions=[-2, -1]) for n in (NIGHT, DAY)]
    return fit_directions(*sides, estimator)
