"""Teacher forcing: prompts with answers that are given, run in as few tokens as the model allows.

All prompts of a chat template begin alike, and one prompt may have several answers. A pack holds
many of them in one row: the shared beginning once, then each prompt, then its answers, and a mask
that lets every token see its own past alone. Models whose layers carry a state along the row
(recurrent, convolutional), or that make their mask themselves, would mix what lies side by side:
`force` compares one pack with ordinary rows, and takes those where they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vectomy.core.types import Stream, TokenIds
from vectomy.models.chat import ChatModel
from vectomy.models.generation import shared_beginning

__all__ = ["Example", "TeacherForcedBatch", "pack_examples", "packs_exactly", "resume_at", "resumes_exactly"]

# Largest difference of hidden states, as a share of their size, that counts as rounding.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


@dataclass(frozen=True)
class Example:
    """A prompt's tokens, and one or more answers to it; `row` is the caller's number for it."""

    row: int
    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class TeacherForcedBatch:
    """One forward pass. Label j is predicted at (`batch_row`[j], `column`[j]); it is of answer
    `answer`[j] of this pass, and `first` marks the first token of each. `rows` and `which` say, by
    answer, the example's row and which of its answers.
    """

    input_ids: TokenIds
    position_ids: TokenIds
    attention_mask: Tensor
    labels: Int[Tensor, " label"]
    batch_row: Int[Tensor, " label"]
    column: Int[Tensor, " label"]
    answer: Int[Tensor, " label"]
    first: Int[Tensor, " answer"]
    rows: list[int]
    which: list[int]

    def inputs(self) -> dict[str, Any]:
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "use_cache": False,
        }

    @property
    def tokens(self) -> int:
        return self.input_ids.numel()

    def ending(self, hidden: Stream, positions: Sequence[int]) -> Float[Tensor, "answer position d_model"]:
        """The states at token positions of each answer's prompt, counted from its end, as far as
        they are its own.
        """
        back = torch.tensor(positions, device=self.column.device) + 1
        columns = self.column[self.first][:, None] + back
        return hidden[self.batch_row[self.first][:, None].to(hidden.device), columns.to(hidden.device)]

    def predicting(self, hidden: Stream) -> Float[Tensor, "label d_model"]:
        """The states that predict the labels."""
        return hidden[self.batch_row, self.column]


def pack_examples(
    chat: ChatModel, examples: Sequence[Example], budget: int, count: int | None = None, packed: bool = True
) -> list[TeacherForcedBatch]:
    """Passes over examples in the given order, each of at most `budget` tokens (or of one example),
    and at most `count` of them.
    """
    prefix = shared_beginning([example.prompt for example in examples]) if packed else 0
    groups: list[list[Example]] = []
    for example in examples:
        grown = [*groups[-1], example] if groups else [example]
        if not groups or len(groups[-1]) == count or _size(grown, prefix, packed) > budget:
            groups.append([example])
        else:
            groups[-1] = grown
    return [_packed(chat, group, prefix) if packed else _padded(chat, group) for group in groups]


def _size(group: Sequence[Example], prefix: int, packed: bool) -> int:
    """Tokens of one pass, padding included."""
    if packed:
        return prefix + sum(
            len(e.prompt) - prefix + sum(len(answer) - 1 for answer in e.answers) for e in group
        )
    return sum(len(e.answers) for e in group) * max(
        len(e.prompt) - 1 + max(map(len, e.answers)) for e in group
    )


class _Labels:
    """Gathers where each label is predicted."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.which: list[int] = []
        self.first: list[int] = []
        self.entries: list[tuple[int, int, int, int]] = []

    def add(self, example: Example, which: int, batch_row: int, columns: Sequence[int]) -> None:
        self.first.append(len(self.entries))
        for column, token in zip(columns, example.answers[which], strict=True):
            self.entries.append((token, batch_row, column, len(self.rows)))
        self.rows.append(example.row)
        self.which.append(which)

    def tensors(self, device: torch.device) -> dict[str, Any]:
        labels, rows, columns, answers = torch.tensor(self.entries, dtype=torch.long, device=device).unbind(1)
        return {
            "labels": labels,
            "batch_row": rows,
            "column": columns,
            "answer": answers,
            "first": torch.tensor(self.first, dtype=torch.long, device=device),
            "rows": self.rows,
            "which": self.which,
        }


def _packed(chat: ChatModel, examples: Sequence[Example], prefix: int) -> TeacherForcedBatch:
    ids = list(examples[0].prompt[:prefix])
    positions, owner, branch = list(range(prefix)), [0] * prefix, [0] * prefix
    labels = _Labels()
    for number, example in enumerate(examples, 1):
        own = example.prompt[prefix:]
        ids += own
        positions += range(prefix, len(example.prompt))
        owner += [number] * len(own)
        branch += [0] * len(own)
        last = len(ids) - 1
        for which, answer in enumerate(example.answers):
            # The last token of an answer predicts nothing that is asked for.
            body = answer[:-1]
            labels.add(example, which, 0, [last, *range(len(ids), len(ids) + len(body))])
            ids += body
            positions += range(len(example.prompt), len(example.prompt) + len(body))
            owner += [number] * len(body)
            branch += [which + 1] * len(body)
    device = chat.device
    mask = _own_past(torch.tensor(owner), torch.tensor(branch))
    additive = torch.zeros(mask.shape, dtype=chat.model.dtype).masked_fill_(
        ~mask, torch.finfo(chat.model.dtype).min
    )
    return TeacherForcedBatch(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        additive[None, None].to(device),
        **labels.tensors(device),
    )


def _own_past(owner: Int[Tensor, " token"], branch: Int[Tensor, " token"]) -> Tensor:
    """Who sees whom: the shared beginning (owner 0), the own prompt (branch 0) and the own answer,
    so far as they come before.
    """
    before = torch.ones(len(owner), len(owner), dtype=torch.bool).tril()
    same = owner[:, None] == owner[None]
    own = same & ((branch[None] == 0) | (branch[:, None] == branch[None]))
    return before & ((owner[None] == 0) | own)


def _padded(chat: ChatModel, examples: Sequence[Example]) -> TeacherForcedBatch:
    """A row for each answer, padded on the left."""
    texts = [
        ([*e.prompt, *answer[:-1]], e, which) for e in examples for which, answer in enumerate(e.answers)
    ]
    width = max(len(text) for text, _, _ in texts)
    ids = torch.full((len(texts), width), chat.pad_token, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = _Labels()
    for place, (text, example, which) in enumerate(texts):
        ids[place, width - len(text) :] = torch.tensor(text)
        mask[place, width - len(text) :] = 1
        labels.add(example, which, place, range(width - len(example.answers[which]), width))
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    device = chat.device
    return TeacherForcedBatch(ids.to(device), positions.to(device), mask.to(device), **labels.tensors(device))


@torch.inference_mode()
def packs_exactly(chat: ChatModel, examples: Sequence[Example]) -> bool:
    """Whether a pack of the examples gives what ordinary rows of them give."""
    found: list[Tensor] = []
    for packed in (True, False):
        try:
            parts = [
                one.predicting(chat.hidden(one))
                for one in pack_examples(chat, examples, 1 << 30, packed=packed)
            ]
        except (ValueError, RuntimeError, TypeError, IndexError):
            # A model that takes no mask of its own.
            return False
        found.append(torch.cat(parts))
    return _equal(*found)


def _equal(one: Tensor, other: Tensor) -> bool:
    scale = float(other.float().abs().max())
    return float((one.float() - other.float()).abs().max()) <= ROUNDING.get(one.dtype, 1e-3) * scale


@contextmanager
def resume_at(chat: ChatModel, layer: int) -> Iterator[list[Stream]]:
    """Inside, a forward pass goes on at `layer` with the stream that is put into the yielded list
    (its one entry).

    The blocks below hand on what they get; the last of them hands over the given stream. Everything
    else that the model does (masks, rotary tables) it does itself.
    """
    given: list[Stream] = []
    blocks = [chat.model.get_submodule(chat.architecture.block(at)) for at in range(layer)]
    try:
        for block in blocks:
            block.forward = _passing
        if blocks:
            blocks[-1].forward = lambda *args, **kwargs: given[0]
        yield given
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _passing(hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
    return hidden_states


@torch.inference_mode()
def resumes_exactly(chat: ChatModel, layer: int, one: TeacherForcedBatch) -> bool:
    """Whether passes of this model may go on at `layer`: blocks give their stream alone, and
    nothing of a lower block is used above.
    """
    block = chat.model.get_submodule(chat.architecture.block(layer - 1))
    outputs: list[Any] = []
    handle = block.register_forward_hook(lambda _m, _a, output: outputs.append(output))
    try:
        whole = one.predicting(chat.hidden(one))
    finally:
        handle.remove()
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
        return False
    with resume_at(chat, layer) as given:
        given.append(outputs[0])
        try:
            return _equal(one.predicting(chat.hidden(one)), whole)
        except (ValueError, RuntimeError, TypeError, IndexError):
            return False
