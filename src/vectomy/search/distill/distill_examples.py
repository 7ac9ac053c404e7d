"""The examples for a trait: the model's own answers to the same prompts in both contexts, and its
hidden states while it gives them.

The edited model in the context `source` is to answer as the base does in the context `target`: to
induce a trait, the plain model as the styled one; to remove it, the reverse. The answers are
teacher-forced in the source context, and each token is paired with the base's state in the context
that the token comes from.

Small models repeat themselves in a style. With `lead`, a styled answer is cut after its first
sentences, and the plain answer to the same prompt follows, with its own teacher. The lead itself
has no teacher: the teacher would repeat the lead, and a model that learns from it says nothing else
(docs/log/traits.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vectomy.core.config import BatchTokens
from vectomy.core.errors import BehaviourAbsentError
from vectomy.core.progress import Progress
from vectomy.data.prompts import Prompt
from vectomy.data.trait_context import in_context
from vectomy.data.trait_file import Trait
from vectomy.hooks.capture import capture
from vectomy.metrics.judges.judged_part import find_degenerate
from vectomy.metrics.trait_scorers import Scorer
from vectomy.models import (
    ChatModel,
    Example,
    TeacherForcedBatch,
    find_final_parts,
    pack_examples,
    packs_exactly,
)

__all__ = [
    "DistillBatch",
    "DistillExample",
    "check_enough",
    "distill_examples",
    "good_answers",
    "lead_and_answer",
    "mean_streams",
    "pair_examples",
    "split_batch",
]

# Prompts and tokens in one pass, and the fewest answers that anything can be learned from.
PER_PASS, MOST_TOKENS = 8, 4096
FEWEST = 8
SENTENCE_END = re.compile(r"[.!?][\"')]?\s*$")
# Sentences of fewer tokens are interjections; leads of more are no sentence.
SHORTEST_SENTENCE, LONGEST_LEAD = 4, 24
# Tokens of a plain answer that follow a lead.
FOLLOWING = 40
# Weight of the first token after a lead: there the model either begins its answer, or repeats the
# lead and then never stops repeating it (docs/log/traits.md).
TURN = 4.0


@dataclass(frozen=True)
class DistillExample:
    """A prompt as tokens in the source context, an answer to it, and where each part of the answer
    comes from.

    `parts` are (prompt in its context, tokens, how many of the first tokens have no teacher because
    the base did not generate them after that prompt).
    """

    source: list[int]
    parts: list[tuple[list[int], list[int], int]]

    @property
    def answer(self) -> list[int]:
        return [token for _, tokens, _ in self.parts for token in tokens]


@dataclass(frozen=True, eq=False)
class DistillBatch:
    """One pass over answers in the source context, with the base's states in the contexts that the
    tokens come from, which labels have such a teacher, and the weight of each label.

    Attributes:
        share: of a piece of a pass (`split_batch`), the share of the weights of the whole pass.
    """

    forced: TeacherForcedBatch
    base: Float[Tensor, "label d_model"]
    has_teacher: Bool[Tensor, " label"]
    weight: Float[Tensor, " label"]
    share: float = 1.0


@torch.no_grad()
def split_batch(chat: ChatModel, batch: DistillBatch, pieces: int) -> list[DistillBatch]:
    """A pass as at most `pieces` smaller ones of whole examples. Their losses, weighted by their
    shares, add up to the loss of the pass.
    """
    examples = batch.forced.examples
    size = -(-len(examples) // pieces)
    if size >= len(examples):
        return [batch]
    # A pack has a mask of its own for every pair of tokens.
    packed = batch.forced.attention_mask.ndim > 2
    found, start = [], 0
    for part in pack_examples(chat, examples, 1 << 30, count=size, packed=packed):
        labels = slice(start, start + len(part.labels))
        start = labels.stop
        weight = batch.weight[labels]
        share = float(weight.sum() / batch.weight.sum())
        found.append(DistillBatch(part, batch.base[labels], batch.has_teacher[labels], weight, share))
    return found


def good_answers(
    texts: Sequence[str], answers: Sequence[list[int]], decoded: Sequence[str], scorer: Scorer, shows: bool
) -> list[bool]:
    """Which answers are good examples: they show the trait (with `shows`) or lack it behind their
    thoughts, and are not degenerate.
    """
    return [
        bool(answer) and flag == shows and not find_degenerate(said, text)
        for text, answer, said, flag in zip(
            texts, answers, decoded, scorer.shown(decoded, texts, answers), strict=True
        )
    ]


def check_enough(good: Sequence[bool], what: str, scorer: Scorer) -> None:
    """Raises BehaviourAbsentError: fewer than FEWEST good answers."""
    if sum(good) < FEWEST:
        raise BehaviourAbsentError(
            f"of {len(good)} answers {sum(good)} {what} ({scorer.note}); at least {FEWEST} are needed: make "
            "the system prompt plainer, or give example turns in the trait's file"
        )


def distill_examples(
    chat: ChatModel,
    trait: Trait,
    texts: Sequence[str],
    answers: dict[str, list[list[int]]],
    good: dict[str, list[bool]],
    scorer: Scorer,
) -> list[DistillExample]:
    """The examples: answers of the target context. `answers` and `good` are by side.

    Raises:
        BehaviourAbsentError: fewer than FEWEST.
    """
    styled, plain = (chat.tokens(in_context(texts, context)) for context in (trait.positive, trait.negative))
    if trait.operation == "remove":
        rows = zip(styled, plain, answers["negative"], good["negative"], strict=True)
        return [
            DistillExample(source, [(target, answer, 0)]) for source, target, answer, fine in rows if fine
        ]
    if not trait.lead:
        rows = zip(plain, styled, answers["positive"], good["positive"], strict=True)
        return [
            DistillExample(source, [(target, answer, 0)]) for source, target, answer, fine in rows if fine
        ]
    lead = trait.lead
    # The lead and the answer are those of the final parts, behind the thought of each.
    sides = [
        find_final_parts(chat, styled, answers["positive"]),
        find_final_parts(chat, plain, answers["negative"]),
    ]
    made = [
        None
        if own is None or other is None or not fine
        else lead_and_answer(chat, own.prompt, (other.prompt, other.answer), (own.prompt, own.answer), lead)
        for other, own, fine in zip(*sides, good["negative"], strict=True)
    ]
    # Of the final parts, so that no thought is open.
    said = ["" if example is None else chat.decode(example.answer) for example in made]
    shown = scorer.shown(said, texts, [[0] if example is None else example.answer for example in made])
    found = [
        example
        for example, text, prompt, shows in zip(made, said, texts, shown, strict=True)
        if example is not None and shows and not find_degenerate(text, prompt)
    ]
    check_enough(
        [example in found for example in made],
        f"show the trait in their first {trait.lead} sentences",
        scorer,
    )
    return found


def lead_and_answer(
    chat: ChatModel,
    source: list[int],
    styled: tuple[list[int], list[int]],
    plain: tuple[list[int], list[int]],
    sentences: int,
) -> DistillExample | None:
    """The first sentences of a styled answer, then the plain answer; `styled` and `plain` are
    (prompt, answer). None where the styled answer has no such sentence.
    """
    lead = _first_sentences(chat, styled[1], sentences)
    own = plain[1][:FOLLOWING]
    said = chat.tokenizer.decode(own, skip_special_tokens=True)
    # After the lead the first word of the answer has a blank before it; all other tokens must stay
    # the same.
    after = list(chat.tokenizer(" " + said, add_special_tokens=False)["input_ids"])
    # The last token may change where the cut has split a word, so it is left out.
    after = after[:-1]
    if lead is None or not after or after[1:] != own[1 : len(after)]:
        return None
    return DistillExample(source, [(styled[0], lead, len(lead)), (plain[0], after, 1)])


def _first_sentences(chat: ChatModel, answer: list[int], count: int) -> list[int] | None:
    found = 0
    last = 0
    for end in range(1, len(answer) + 1):
        if end - last >= SHORTEST_SENTENCE and SENTENCE_END.search(chat.tokenizer.decode(answer[last:end])):
            found, last = found + 1, end
            if found == count:
                return answer[:end] if end <= LONGEST_LEAD * count else None
    return None


@torch.no_grad()
def pair_examples(
    chat: ChatModel, examples: Sequence[DistillExample], batch_tokens: BatchTokens, progress: Progress
) -> list[DistillBatch]:
    """The examples as passes in the source context, each with the base's states in the contexts
    that the tokens come from.
    """
    source = [Example(row, example.source, [example.answer]) for row, example in enumerate(examples)]
    packed = packs_exactly(chat, source)
    found = []
    with progress("what the base does", len(examples), "answers") as update:
        by_row = _states(chat, examples, batch_tokens)
        for one in pack_examples(chat, source, batch_tokens, count=PER_PASS, packed=packed, most=MOST_TOKENS):
            base = torch.cat([by_row[row] for row in one.rows])
            labels = [
                (at >= begin, TURN if number and not at else 1.0)
                for row in one.rows
                for number, (_, part, begin) in enumerate(examples[row].parts)
                for at in range(len(part))
            ]
            has_teacher, weight = (
                torch.tensor(column, device=base.device) for column in zip(*labels, strict=True)
            )
            found.append(DistillBatch(one, base, has_teacher, weight))
            update(len(one.rows))
    return found


def _states(
    chat: ChatModel, examples: Sequence[DistillExample], batch_tokens: BatchTokens
) -> list[Float[Tensor, "label d_model"]]:
    """By example, the states that predict the tokens of its answer, each part in its own context.
    First parts run together, then second ones: prompts that begin alike share a pass.
    """
    found: list[list[Tensor]] = [[] for _ in examples]
    for place in range(max(len(example.parts) for example in examples)):
        teacher_examples = [
            Example(row, example.parts[place][0], [example.parts[place][1]])
            for row, example in enumerate(examples)
            if place < len(example.parts)
        ]
        packed = len(teacher_examples) > 1 and packs_exactly(chat, teacher_examples)
        for one in pack_examples(chat, teacher_examples, batch_tokens, count=PER_PASS, packed=packed):
            states = one.predicting(chat.hidden(one))
            for number, row in enumerate(one.rows):
                found[row].append(states[(one.answer == number).to(states.device)])
    return [torch.cat(parts) for parts in found]


@torch.inference_mode()
def mean_streams(
    chat: ChatModel,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    batch_tokens: BatchTokens,
    last: bool = False,
) -> Float[Tensor, "layer d_model"]:
    """The mean of resid_post at every layer where the answers' tokens are predicted; with `last`,
    at the prompt's last token alone.
    """
    examples = [
        Example(row, ids, [answer])
        for row, (ids, answer) in enumerate(zip(chat.tokens(prompts), answers, strict=True))
    ]
    packed = packs_exactly(chat, examples)
    arch = chat.architecture
    total, count = torch.zeros(arch.n_layers, arch.d_model, dtype=torch.float64), 0
    for one in pack_examples(chat, examples, batch_tokens, packed=packed, most=1024):
        with capture(chat.model, ["resid_post"]) as stream:
            chat.hidden(one)
        for (_, layer), value in stream.items():
            states = one.predicting(value)
            states = states[one.first.to(states.device)] if last else states
            total[layer] += states.cpu().double().sum(0)
        count += len(one.first) if last else len(one.labels)
    return (total / count).float()
