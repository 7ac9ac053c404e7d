"""Baseline: what the base model does before anything is changed, on the search split.

Says whether the base shows the behaviour at all, which first tokens give it away, and which prompts
it treats as the contrast says.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from vectomy.core.config import Contrast, RunConfig
from vectomy.core.errors import BehaviourAbsentError, SelectionError
from vectomy.core.progress import Progress, silent
from vectomy.data.prompts import Splits
from vectomy.metrics.intervals import share_of
from vectomy.metrics.judges import Judge, find_refusals
from vectomy.metrics.logits import behaviour_tokens, log_odds
from vectomy.models import ChatModel

__all__ = ["Baseline", "measure_baseline"]

# Below this share of positive prompts there is nothing to find a direction of.
LEAST_RATE = 0.05


@dataclass(frozen=True)
class Baseline:
    """`positive_rate` and `negative_rate`: share of search prompts whose answer the judge calls a
    refusal.

    `tokens` are the first tokens of the behaviour; `positive_kept` and `negative_kept` say, by
    split, which prompts the base treats as the contrast says (log-odds of the tokens above 0, below
    0). `answers` are its greedy tokens on the search prompts, by side.
    """

    positive_rate: float
    negative_rate: float
    tokens: tuple[int, ...]
    token_texts: tuple[str, ...]
    positive_kept: dict[str, list[bool]]
    negative_kept: dict[str, list[bool]]
    answers: dict[str, list[list[int]]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_baseline(
    chat: ChatModel,
    positive: Splits,
    negative: Splits,
    judge: Judge,
    config: RunConfig,
    progress: Progress = silent,
) -> Baseline:
    """Answer the search prompts and score the first token of fit and search.

    Raises:
        BehaviourAbsentError: under 5% of the positive search prompts show the behaviour (unless
            `config.force`).
        SelectionError: the recipe needs behaviour tokens and none tell the sides apart, or one that
            is given is not a single token.
    """
    sides = {"positive": positive, "negative": negative}
    # Damaged weights are said to be that, before their answers are taken for a behaviour that is
    # absent.
    chat.next_token_log_probs(chat.tokens(positive.search[:1]), config.runtime.batch_tokens)
    answers = {
        side: chat.answer(
            chat.tokens(splits.search),
            config.answer_tokens,
            config.runtime.batch_tokens,
            progress,
            f"base answers ({side})",
        )
        for side, splits in sides.items()
    }
    refused = {
        side: find_refusals(judge, [p.text for p in splits.search], [chat.text(a) for a in answers[side]])
        for side, splits in sides.items()
    }
    rates = {side: share_of(flags) for side, flags in refused.items()}
    _check_present(rates["positive"], len(positive.search), config)
    tokens = _given_tokens(chat, config) if config.selection.behaviour_tokens else None
    scored = _scored(chat, sides, config.runtime.batch_tokens) if config.recipe == "arditi" else {}
    if tokens is None and config.recipe == "arditi":
        shows, other = refused["positive"], [not flag for flag in refused["negative"]]
        if config.contrast.behaviour != "refusal" or not any(shows) or not any(other):
            shows, other = [True] * len(shows), [True] * len(other)
        tokens = behaviour_tokens(scored["positive", "search"][shows], scored["negative", "search"][other])
    kept = {
        side: {split: [True] * len(getattr(splits, split)) for split in ("fit", "search")}
        for side, splits in sides.items()
    }
    if tokens is not None and config.selection.filter_prompts:
        for (side, split), log_probs in scored.items():
            odds = log_odds(log_probs, tokens)
            kept[side][split] = (odds > 0 if side == "positive" else odds < 0).tolist()
            if sum(kept[side][split]) < 2:
                raise SelectionError(
                    f"the base treats {sum(kept[side][split])} of {len(odds)} {side} {split} prompts as the contrast says (first "
                    f"tokens {[chat.text([t]) for t in tokens]}); give clearer prompts or --no-filter-prompts"
                )
    return Baseline(
        rates["positive"],
        rates["negative"],
        tuple(tokens or ()),
        tuple(chat.tokenizer.decode([token]) for token in tokens or ()),
        kept["positive"],
        kept["negative"],
        answers,
    )


def _scored(chat: ChatModel, sides: dict[str, Splits], budget: int) -> dict[tuple[str, str], Tensor]:
    """Log-probabilities of the first token, by side and split."""
    return {
        (side, split): chat.next_token_log_probs(chat.tokens(getattr(splits, split)), budget)
        for side, splits in sides.items()
        for split in ("fit", "search")
    }


def _check_present(rate: float, count: int, config: RunConfig) -> None:
    contrast: Contrast = config.contrast
    if contrast.behaviour == "refusal" and rate < LEAST_RATE and not config.force:
        raise BehaviourAbsentError(
            f"the base model {config.model} does not show the behaviour: it refuses {rate:.0%} of {count} positive prompts "
            f"({contrast.positive.prompts}), so there is nothing to remove; use other prompts, or --force to go on all the same"
        )


def _given_tokens(chat: ChatModel, config: RunConfig) -> list[int]:
    found = []
    for text in config.selection.behaviour_tokens or ():
        ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise SelectionError(
                f"the behaviour token '{text}' is {len(ids)} tokens for {chat.name}; give one that is a single token"
            )
        found.append(int(ids[0]))
    return found
