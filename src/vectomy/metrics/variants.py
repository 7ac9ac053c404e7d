"""Evaluates the base and each variant of the edit (hooks, baked, LoRA) on the test prompts, which
nothing was fitted or chosen on.

The base answers first (`answer_base`). Each variant is then measured against those answers
(`evaluate_variant`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.config import BatchTokens
from vectomy.core.json_value import JsonObject
from vectomy.core.linalg import normalise
from vectomy.core.progress import Progress, silent
from vectomy.core.results import FormMetrics
from vectomy.core.types import Point, Stream, Vector
from vectomy.data.prompts import Prompt
from vectomy.hooks.capture import capture
from vectomy.metrics.detectable_effect import detectable
from vectomy.metrics.direction_share import shares_along
from vectomy.metrics.divergence import answer_hidden, divergence
from vectomy.metrics.intervals import rate_of, share_of
from vectomy.metrics.judges import Judge, Verdict, find_refusals, measured_errors, refuses
from vectomy.models import ChatModel

__all__ = [
    "RECEIPT_PROMPTS",
    "BaseAnswers",
    "VariantResult",
    "answer_base",
    "evaluate_variant",
    "force_variant",
]

# Answers are also judged cut off after so many tokens, as far as they are longer.
LENGTHS = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# Test prompts of each side on whose whole stream the remaining direction is measured.
RECEIPT_PROMPTS = 8


@dataclass(frozen=True, eq=False)
class BaseAnswers:
    """The base on the test prompts.

    Attributes:
        answers: the base's greedy tokens, by prompt set and prompt.
        hidden: for the negative prompts, the base's last hidden states that predict each answer
            token.
        keep: the preserve set, on which the behaviour must stay.
    """

    positive: tuple[Prompt, ...]
    negative: tuple[Prompt, ...]
    answers: dict[str, list[list[int]]]
    hidden: list[Float[Tensor, "_ d_model"]]
    keep: tuple[Prompt, ...] = ()

    @property
    def sides(self) -> dict[str, tuple[Prompt, ...]]:
        """The prompt sets by name; `keep` only if there is a preserve set."""
        return {"positive": self.positive, "negative": self.negative} | (
            {"keep": self.keep} if self.keep else {}
        )


@dataclass(frozen=True)
class VariantResult:
    """The numbers of a variant, and its answers with verdicts, by set."""

    metrics: FormMetrics
    answers: dict[str, list[dict[str, str]]]

    def to_json(self) -> JsonObject:
        return {"metrics": self.metrics.to_json(), "answers": self.answers}


def answer_base(
    chat: ChatModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    answer_tokens: int,
    batch_tokens: BatchTokens,
    progress: Progress = silent,
    answers: dict[str, list[list[int]]] | None = None,
    keep: Sequence[Prompt] = (),
) -> BaseAnswers:
    """Let the base answer and store what `evaluate_variant` compares with.

    Args:
        answers: answers of an earlier call, which are then not generated again.
    """
    sides = {"positive": tuple(positive), "negative": tuple(negative)} | (
        {"keep": tuple(keep)} if keep else {}
    )
    answers = answers or {
        side: chat.answer(
            chat.tokens(prompts), answer_tokens, batch_tokens, progress, f"base answers ({side})"
        )
        for side, prompts in sides.items()
    }
    hidden = answer_hidden(chat, sides["negative"], answers["negative"], batch_tokens)
    return BaseAnswers(sides["positive"], sides["negative"], answers, hidden, tuple(keep))


def evaluate_variant(
    chat: ChatModel,
    base: BaseAnswers,
    judge: Judge,
    answer_tokens: int,
    batch_tokens: BatchTokens,
    progress: Progress = silent,
    *,
    form: str,
    direction: Vector | None = None,
) -> VariantResult:
    """Measure the model in its current state (inside `edit.hooks`, or baked) on the base's prompts.

    Args:
        form: the name of the variant. "base" reuses the base's answers; its KL is measured too, and
            shows the noise floor.
        direction: also measure the largest share of the residual stream along this direction, at
            any site, layer and token.
    """
    judged: dict[str, list[dict[str, str]]] = {}
    verdicts: dict[str, list[Verdict]] = {}
    by_length: dict[str, float | None] = {}
    for side, prompts in base.sides.items():
        what = f"{form} answers ({side})"
        tokens = (
            base.answers[side]
            if form == "base"
            else chat.answer(chat.tokens(prompts), answer_tokens, batch_tokens, progress, what)
        )
        if side == "positive":
            by_length = _refusals_by_length(chat, judge, prompts, tokens, answer_tokens)
        texts = [chat.text(answer) for answer in tokens]
        verdicts[side] = [
            judge.verdict(prompt.text, text) for prompt, text in zip(prompts, texts, strict=True)
        ]
        judged[side] = [
            {"text": text, "verdict": verdict} for text, verdict in zip(texts, verdicts[side], strict=True)
        ]
    judged_verdicts = [verdict for side in verdicts.values() for verdict in side if verdict != "not_judged"]
    metrics = FormMetrics.from_json(
        {
            **_rate("refusal", verdicts["positive"]),
            "minimum_detectable_effect": detectable(
                [refuses(verdict) for verdict in verdicts["positive"]], measured_errors(judge.name)
            ),
            "answer_tokens": answer_tokens,
            "by_length": by_length
            | {str(answer_tokens): share_of([refuses(verdict) for verdict in verdicts["positive"]])},
            **_rate("harmless_refusal", verdicts["negative"]),
            **(_rate("keep_refusal", verdicts["keep"]) if base.keep else {}),
            "degenerate_rate": share_of([verdict == "degenerate" for verdict in judged_verdicts]),
            "evasion_rate": share_of(
                [verdict == "evasion" for verdict in verdicts["positive"] if verdict != "not_judged"]
            ),
            **_refuse_without_thinking(chat, base, judge, answer_tokens, batch_tokens, progress, form),
            **_measure_forced(chat, base, direction, batch_tokens),
        }
    )
    return VariantResult(metrics, judged)


def _refuse_without_thinking(
    chat: ChatModel,
    base: BaseAnswers,
    judge: Judge,
    answer_tokens: int,
    batch_tokens: BatchTokens,
    progress: Progress,
    form: str,
) -> JsonObject:
    """The rate of refusals of a model that thinks, where it answers without a thought: what its
    thoughts add to its refusals, or take. Nothing for a model that does only one of the two.
    """
    plain = chat.without_thinking
    if plain is None:
        return {}
    what = f"{form} answers without thinking"
    tokens = plain.answer(plain.tokens(base.positive), answer_tokens, batch_tokens, progress, what)
    texts = [plain.text(answer) for answer in tokens]
    asked = [prompt.text for prompt in base.positive]
    return {"refusal_without_thinking": rate_of(find_refusals(judge, asked, texts))}


def force_variant(
    chat: ChatModel,
    base: BaseAnswers,
    leaves: Sequence[bool | None],
    kept: Sequence[float],
    batch_tokens: BatchTokens,
    *,
    direction: Vector | None = None,
) -> VariantResult:
    """`evaluate_variant` by teacher forcing alone, without answers.

    Args:
        leaves: for each positive prompt, whether the behaviour is left, by its openings; None: the
            base's answer has no verdict.
        kept: the share of the openings' probability that is left, by prompt that the base refuses.
    """
    rates = {f"opening_{key}": value for key, value in rate_of(leaves).items()}
    mean = {"opening_kept": sum(kept) / len(kept)} if kept else {}
    forced = _measure_forced(chat, base, direction, batch_tokens)
    return VariantResult(FormMetrics.from_json({**rates, **mean, **forced}), {})


def _measure_forced(
    chat: ChatModel, base: BaseAnswers, direction: Vector | None, batch_tokens: BatchTokens
) -> JsonObject:
    return {
        **_measure_divergence(chat, base, batch_tokens),
        "max_projection": None
        if direction is None
        else _largest_projection(chat, direction, base, batch_tokens),
    }


def _refusals_by_length(
    chat: ChatModel, judge: Judge, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], limit: int
) -> dict[str, float | None]:
    """The refusal rate of the same greedy answers, cut off after so many tokens, fewer than
    `limit`, behind the thought if there is one.
    """
    lengths = [length for length in LENGTHS if length < limit]
    return {
        str(length): share_of(
            [
                refuses(judge.verdict(prompt.text, chat.text(chat.cut(answer, length))))
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
        )
        for length in lengths
    }


def _rate(name: str, verdicts: Sequence[Verdict]) -> JsonObject:
    rate = rate_of(map(refuses, verdicts))
    return {f"{name}_{key}": value for key, value in rate.items()}


@torch.inference_mode()
def _largest_projection(
    chat: ChatModel, direction: Vector, base: BaseAnswers, batch_tokens: BatchTokens
) -> float | None:
    """Largest |x . r| / |x| of the residual stream on some test prompts: the measured remainder of
    a direction. None for a stream with NaN or infinite values.
    """
    unit = normalise(direction.float())
    largest = torch.zeros(())
    prompts = [*base.positive[:RECEIPT_PROMPTS], *base.negative[:RECEIPT_PROMPTS]]
    for batch in chat.batches(chat.tokens(prompts), batch_tokens):
        shares: list[Tensor] = []
        # As they pass: the stream of all layers may be larger than the memory.
        consume = partial(_append_share, shares, batch.attention_mask.bool(), unit)
        with capture(chat.model, consume=consume):
            chat.hidden(batch)
        # NaN stays NaN, where Python's max would drop it.
        largest = torch.stack([largest, *shares]).max()
    return float(largest) if bool(largest.isfinite()) else None


def _append_share(shares: list[Tensor], mask: Tensor, unit: Vector, _point: Point, value: Stream) -> None:
    shares.append(shares_along(value[mask.to(value.device)], unit).max().cpu())


def _measure_divergence(chat: ChatModel, base: BaseAnswers, batch_tokens: BatchTokens) -> dict[str, float]:
    """KL and cross-entropy over the base's answers to the negative prompts. No edit changes the
    head, so the model's own head serves for both.
    """
    answers = base.answers["negative"]
    now = answer_hidden(chat, base.negative, answers, batch_tokens)
    return divergence(chat, chat, base.hidden, now, answers)
