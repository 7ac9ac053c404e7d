"""Evaluate: what the base does and what each form of the edit does, on prompts that nothing was
fitted or chosen on.

The base answers first (`reference`); every form is then measured against those answers (`measure`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.linalg import normalise
from vectomy.core.progress import Progress, silent
from vectomy.core.types import Site, Vector
from vectomy.data.prompts import Prompt
from vectomy.hooks.capture import capture
from vectomy.metrics.divergence import answer_hidden, divergence
from vectomy.metrics.intervals import rate_of, share_of
from vectomy.metrics.judges import REFUSALS, Judge, Verdict
from vectomy.metrics.pca import principal_components
from vectomy.models import ChatModel

__all__ = ["BaseAnswers", "VariantResult", "answer_base", "evaluate_variant", "separation"]

# Test prompts of each side whose whole stream is looked at for what is left of the direction.
RECEIPT_PROMPTS = 8


@dataclass(frozen=True, eq=False)
class BaseAnswers:
    """The base on the test prompts.

    `keep` are prompts that are to show the behaviour still. `answers` are its greedy tokens per
    prompt; `hidden` its last hidden states where each answer token is predicted, for the negative
    prompts alone; `ce` the mean cross-entropy of those answers under the base, in nats a token.
    """

    positive: tuple[Prompt, ...]
    negative: tuple[Prompt, ...]
    answers: dict[str, list[list[int]]]
    hidden: list[Float[Tensor, "_ d_model"]]
    keep: tuple[Prompt, ...] = ()

    @property
    def sides(self) -> dict[str, tuple[Prompt, ...]]:
        """The prompt sets by name; `keep` where there is one."""
        return {"positive": self.positive, "negative": self.negative} | (
            {"keep": self.keep} if self.keep else {}
        )


@dataclass(frozen=True)
class VariantResult:
    """One form's numbers as summary.json has them, and its answers with verdicts, by set."""

    metrics: dict[str, Any]
    answers: dict[str, list[dict[str, str]]]


def answer_base(
    chat: ChatModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    answer_tokens: int,
    batch_tokens: int,
    progress: Progress = silent,
    answers: dict[str, list[list[int]]] | None = None,
    keep: Sequence[Prompt] = (),
) -> BaseAnswers:
    """Let the base answer, and keep what `measure` compares with; `answers` that are known already
    are not made again.
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
    batch_tokens: int,
    progress: Progress = silent,
    *,
    form: str,
    direction: Vector | None = None,
) -> VariantResult:
    """Measure the model as it is now (inside `edit.hooks`, or a baked one) on the reference's
    prompts.

    `form` "base" takes the answers that are there; its KL is 0 by definition and measured all the
    same, which shows the noise floor. With `direction`, also the largest part of the stream along
    it, at any site, layer and token.
    """
    judged: dict[str, list[dict[str, str]]] = {}
    verdicts: dict[str, list[Verdict]] = {}
    for side, prompts in base.sides.items():
        what = f"{form} answers ({side})"
        tokens = (
            base.answers[side]
            if form == "base"
            else chat.answer(chat.tokens(prompts), answer_tokens, batch_tokens, progress, what)
        )
        texts = [chat.text(answer) for answer in tokens]
        verdicts[side] = [
            judge.verdict(prompt.text, text) for prompt, text in zip(prompts, texts, strict=True)
        ]
        judged[side] = [
            {"text": text, "verdict": verdict} for text, verdict in zip(texts, verdicts[side], strict=True)
        ]
    metrics = {
        **_rate("refusal", verdicts["positive"]),
        **_rate("harmless_refusal", verdicts["negative"]),
        **(_rate("keep_refusal", verdicts["keep"]) if base.keep else {}),
        "degenerate_rate": share_of(
            [verdict == "degenerate" for side in verdicts.values() for verdict in side]
        ),
        **_damage(chat, base, batch_tokens),
        "max_projection": None
        if direction is None
        else _largest_projection(chat, direction, base, batch_tokens),
    }
    return VariantResult(metrics, judged)


def _rate(name: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    rate = rate_of(verdict in REFUSALS for verdict in verdicts)
    return {f"{name}_{key}": rate[key] for key in ("rate", "count", "total", "ci")}


@torch.inference_mode()
def _largest_projection(chat: ChatModel, direction: Vector, base: BaseAnswers, batch_tokens: int) -> float:
    """Largest |x . r| / |x| over the stream of some test prompts: what an edit left of a direction,
    by measurement.
    """
    unit = normalise(direction.float())
    largest = 0.0
    prompts = [*base.positive[:RECEIPT_PROMPTS], *base.negative[:RECEIPT_PROMPTS]]
    for batch in chat.batches(chat.tokens(prompts), batch_tokens):
        with capture(chat.model) as stream:
            chat.hidden(batch)
        for value in stream.values():
            real = value[batch.attention_mask.to(value.device).bool()].float()
            share = (real @ unit.to(real.device)).abs() / torch.linalg.vector_norm(real, dim=-1)
            largest = max(largest, float(share.max()))
    return largest


def _damage(chat: ChatModel, base: BaseAnswers, batch_tokens: int) -> dict[str, float]:
    """Over the base's answers to the negatives; no edit touches the head, so the model's own is the
    base's too.
    """
    answers = base.answers["negative"]
    now = answer_hidden(chat, base.negative, answers, batch_tokens)
    return divergence(chat, chat, base.hidden, now, answers)


@torch.inference_mode()
def separation(
    chat: ChatModel,
    direction: Vector,
    site: Site,
    layer: int,
    position: int,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    batch_tokens: int,
) -> dict[str, Any]:
    """How far apart the two sets are: means, spreads and AUROC of their projections on the
    direction at every layer, and their principal plane at `layer`.
    """
    unit = normalise(direction.float())
    sides, states = [], []
    for prompts in (positive, negative):
        projections = torch.empty(chat.architecture.n_layers, len(prompts))
        here = torch.empty(len(prompts), len(unit))
        for batch in chat.batches(chat.tokens(prompts), batch_tokens):
            with capture(chat.model, [site], positions=[position]) as stream:
                chat.hidden(batch)
            for (_, at), value in stream.items():
                projections[at, batch.rows] = (value[:, 0].float() @ unit.to(value.device)).cpu()
                if at == layer:
                    here[batch.rows] = value[:, 0].float().cpu()
        sides.append(projections)
        states.append(here)
    yes, no = sides
    layers = [
        {
            "layer": at,
            "positive_mean": float(yes[at].mean()),
            "negative_mean": float(no[at].mean()),
            "positive_std": float(yes[at].std()),
            "negative_std": float(no[at].std()),
            "auroc": _auroc(yes[at], no[at]),
        }
        for at in range(len(yes))
    ]
    place = {"site": site, "layer": layer, "position": position}
    projected = {"positive": yes[layer].tolist(), "negative": no[layer].tolist()}
    return {**place, "layers": layers, **projected, "pca": principal_components(states[0], states[1], unit)}


def _auroc(positive: Float[Tensor, p], negative: Float[Tensor, n]) -> float:
    """Share of pairs in which the positive is the larger; equal ones count half."""
    difference = positive[:, None] - negative[None]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())
