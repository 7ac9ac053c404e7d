"""What a trait is learned from: the model's own answers to the same prompts in both contexts, and its states while it gives them.

An edit is to make the model in the context `source` answer as it does in the context `target`: to induce a trait, the plain model
as the styled one; to remove it, the other way round. The target's own answers are teacher-forced in both contexts, so that states
are paired token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.capture import capture
from vectomy.errors import BehaviourAbsentError
from vectomy.judges.degeneration import degenerate
from vectomy.model import ChatModel, Example, Forced, force, packs_exactly
from vectomy.progress import Progress
from vectomy.prompts import Prompt
from vectomy.traits.scorers import Scorer

__all__ = ["Pair", "Paired", "fitting_answers", "mean_streams", "paired"]

# Prompts in one pass, and the fewest answers that anything can be learned from.
PER_PASS = 16
FEWEST = 8


@dataclass(frozen=True)
class Pair:
    """A prompt as tokens in both contexts, and the answer that the model gives in `target`."""

    source: list[int]
    target: list[int]
    answer: list[int]


@dataclass(frozen=True, eq=False)
class Paired:
    """A pass over answers in the source context, and the base's states in the target context that predict the same labels."""

    forced: Forced
    base: Float[Tensor, "label d_model"]


def fitting_answers(
    texts: Sequence[str], answers: Sequence[list[int]], decoded: Sequence[str], scorer: Scorer, shows: bool
) -> list[bool]:
    """Which answers are good examples: they show the trait (or do not, as `shows` says) and say something.

    Raises:
        BehaviourAbsentError: hardly any is.
    """
    flags = scorer.shown(decoded, texts, answers)
    good = [
        bool(answer) and flag == shows and not degenerate(said, text)
        for text, answer, said, flag in zip(texts, answers, decoded, flags, strict=True)
    ]
    if sum(good) < FEWEST:
        raise BehaviourAbsentError(
            f"of {len(good)} answers in the {'positive' if shows else 'negative'} context {sum(good)} {'show' if shows else 'lack'} the trait and "
            f"say something ({scorer.note}); at least {FEWEST} are needed: make the system prompt plainer, or give example turns"
        )
    return good


@torch.no_grad()
def paired(chat: ChatModel, pairs: Sequence[Pair], batch_tokens: int, progress: Progress) -> list[Paired]:
    """The pairs as passes in the source context, with what the base does in the target context."""
    sides = [
        [Example(row, getattr(pair, side), [pair.answer]) for row, pair in enumerate(pairs)]
        for side in ("source", "target")
    ]
    packed = all(packs_exactly(chat, side[:2]) for side in sides)
    found = []
    with progress("what the base does", len(pairs), "answers") as advance:
        for at in range(0, len(pairs), PER_PASS):
            # Each side in passes of its own, for one context may be much longer; labels stand in the same order in both.
            there = [force(chat, side[at : at + PER_PASS], batch_tokens, packed=packed) for side in sides]
            base = torch.cat([one.predicting(chat.hidden(one)) for one in there[1]])
            for one in there[0]:
                found.append(Paired(one, base[: len(one.labels)]))
                base = base[len(one.labels) :]
            advance(len(sides[0][at : at + PER_PASS]))
    return found


@torch.inference_mode()
def mean_streams(
    chat: ChatModel, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], batch_tokens: int, last: bool
) -> Float[Tensor, "layer d_model"]:
    """The mean of resid_post at every layer where the answers' tokens are predicted; with `last`, at the prompt's last token alone."""
    examples = [
        Example(row, ids, [answer]) for row, (ids, answer) in enumerate(zip(chat.tokens(prompts), answers, strict=True))
    ]
    packed = packs_exactly(chat, examples[:2])
    arch = chat.architecture
    total, count = torch.zeros(arch.n_layers, arch.d_model, dtype=torch.float64), 0
    for one in force(chat, examples, min(batch_tokens, 1024), packed=packed):
        with capture(chat.model, ["resid_post"]) as stream:
            chat.hidden(one)
        for (_, layer), value in stream.items():
            states = one.predicting(value)
            states = states[one.first] if last else states
            total[layer] += states.double().sum(0).cpu()
        count += len(one.first) if last else len(one.labels)
    return (total / count).float()
