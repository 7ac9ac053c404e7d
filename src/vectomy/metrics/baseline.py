"""Baseline: the base model's behaviour on the search split.

It tells whether the base shows the behaviour at all, which first tokens indicate it, and which
prompts the base treats as the contrast expects.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from vectomy.core.config import BatchTokens
from vectomy.core.errors import SelectionError
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress, silent
from vectomy.core.run_config import RunConfig
from vectomy.data.splits import Splits
from vectomy.metrics.contrast_diagnosis import check_contrast, count_side
from vectomy.metrics.judges import Judge, refuses
from vectomy.metrics.logits import behaviour_tokens, log_odds
from vectomy.models import ChatModel

__all__ = ["Baseline", "measure_baseline"]


@dataclass(frozen=True)
class Baseline:
    """The baseline of a run.

    Attributes:
        positive_rate: share of positive search prompts that the base refuses, of those whose answer
            was judged; None if none was.
        negative_rate: the same share of negative search prompts.
        tokens: the first tokens of the behaviour.
        positive_kept: by split, whether each prompt is used: the base treats it as the contrast
            expects (log-odds of the tokens above 0; for `negative_kept` below 0).
        answers: the base's greedy tokens on the search prompts, by side.
        notes: what a reader must know of the contrast, one sentence each.
    """

    positive_rate: float | None
    negative_rate: float | None
    tokens: tuple[int, ...]
    token_texts: tuple[str, ...]
    positive_kept: dict[str, list[bool]]
    negative_kept: dict[str, list[bool]]
    answers: dict[str, list[list[int]]]
    notes: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
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
        JudgeError: most answers of a side could not be judged (unless `config.force`).
        BehaviourAbsentError: the base refuses nothing, everything, or the negative prompts more
            than the positive ones (unless `config.force`).
        SelectionError: the recipe needs behaviour tokens and none separate the sides, or a given
            one is not a single token.
    """
    sides = {"positive": positive, "negative": negative}
    # Report damaged weights as such, before their answers look like an absent behaviour.
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
    judged = {
        side: list(
            judge.judged(
                [prompt.text for prompt in splits.search], [chat.text(answer) for answer in answers[side]]
            )
        )
        for side, splits in sides.items()
    }
    refused = {side: [refuses(judgement.verdict) for judgement in judged[side]] for side in sides}
    counts = {side: count_side(judged[side]) for side in sides}
    notes = check_contrast(counts, config)
    tokens = _read_tokens(chat, config) if config.selection.behaviour_tokens else None
    scored = (
        _score_first_tokens(chat, sides, config.runtime.batch_tokens) if config.recipe == "arditi" else {}
    )
    if tokens is None and config.recipe == "arditi":
        shows = [flag is True for flag in refused["positive"]]
        other = [flag is False for flag in refused["negative"]]
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
                    f"the base treats {sum(kept[side][split])} of {len(odds)} {side} {split} prompts as the "
                    "contrast expects (first "
                    f"tokens {[chat.tokenizer.decode([token]) for token in tokens]}); give clearer prompts "
                    "or --no-filter-prompts"
                )
    return Baseline(
        counts["positive"].rate,
        counts["negative"].rate,
        tuple(tokens or ()),
        tuple(chat.tokenizer.decode([token]) for token in tokens or ()),
        kept["positive"],
        kept["negative"],
        answers,
        notes,
    )


def _score_first_tokens(
    chat: ChatModel, sides: dict[str, Splits], batch_tokens: BatchTokens
) -> dict[tuple[str, str], Tensor]:
    """Log-probabilities of the first token, by side and split."""
    return {
        (side, split): chat.next_token_log_probs(chat.tokens(getattr(splits, split)), batch_tokens)
        for side, splits in sides.items()
        for split in ("fit", "search")
    }


def _read_tokens(chat: ChatModel, config: RunConfig) -> list[int]:
    tokens = []
    for text in config.selection.behaviour_tokens or ():
        ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise SelectionError(
                f"the behaviour token '{text}' is {len(ids)} tokens for {chat.name}; give one that is a "
                "single token"
            )
        tokens.append(int(ids[0]))
    return tokens
