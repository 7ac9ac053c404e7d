"""Teacher forcing: runs prompts with given answers, in as few tokens as the model allows.

All prompts of a chat template begin alike, and one prompt may have several answers. A pack holds
many of them in one row: the shared beginning once, then each prompt, then its answers. A mask lets
every token see only its own past. Models whose layers carry a state along the row (recurrent,
convolutional), or that build their own mask, would mix neighbours: `packs_exactly` compares a pack
with ordinary rows, which such models use instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vectomy.architecture import architecture_of
from vectomy.core.config import BatchTokens
from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.types import Stream, TokenIds
from vectomy.models.chat import ChatModel
from vectomy.models.generation import shared_beginning

__all__ = [
    "COMPARED",
    "Example",
    "TeacherForcedBatch",
    "pack_examples",
    "packs_exactly",
    "resume_at",
    "resumes_exactly",
]

# Largest difference of a state, relative to the size of all, that counts as rounding (root mean
# squares). Right packs of 30 to 80 layers differ by up to 0.04 in bfloat16 and 0.006 in float16,
# wrong ones by 1 (docs/log/gpu.md).
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}
# Examples at the beginning on which packs are compared with plain rows, beside the shortest and the
# longest one.
COMPARED = 2


@dataclass(frozen=True)
class Example:
    """A prompt's tokens and one or more answers; `row` is the caller's index of the prompt."""

    row: int
    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]

    @property
    def longest(self) -> int:
        """Tokens of the prompt and its longest answer."""
        return len(self.prompt) + max(map(len, self.answers), default=0)


@dataclass(frozen=True, eq=False)
class TeacherForcedBatch:
    """One forward pass over given answers.

    Attributes:
        labels: the tokens of the answers, which the model predicts.
        batch_row: with `column`, the place that predicts each label.
        answer: for each label, the index of its answer in this pass.
        first: for each answer, the index of its first label.
        rows: for each answer, the `row` of its example.
        which: for each answer, its index among the answers of its example.
        examples: what the pass was made of.
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
    examples: Sequence[Example]

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
        """The states at positions of each answer's prompt, counted from its end. The positions must
        not reach into the shared beginning.
        """
        back = torch.tensor(positions, device=self.column.device) + 1
        columns = self.column[self.first][:, None] + back
        return hidden[self.batch_row[self.first][:, None].to(hidden.device), columns.to(hidden.device)]

    def predicting(self, hidden: Stream) -> Float[Tensor, "label d_model"]:
        """The states that predict the labels, on their own device: that of the last card, where a
        model is spread over several.
        """
        return hidden[self.batch_row.to(hidden.device), self.column.to(hidden.device)]


def pack_examples(
    chat: ChatModel,
    examples: Sequence[Example],
    batch_tokens: BatchTokens,
    count: int | None = None,
    packed: bool = True,
    most: int | None = None,
) -> list[TeacherForcedBatch]:
    """Passes over the examples in the given order. A pass has at most `batch_tokens` tokens (or one
    example), at most `most` tokens whatever `batch_tokens` says, and at most `count` examples.
    """
    limit = chat.pass_tokens(batch_tokens) if most is None else min(most, chat.pass_tokens(batch_tokens))
    prefix = shared_beginning([example.prompt for example in examples]) if packed else 0
    groups: list[list[Example]] = []
    for example in examples:
        grown = [*groups[-1], example] if groups else [example]
        if not groups or len(groups[-1]) == count or _size(grown, prefix, packed) > limit:
            groups.append([example])
        else:
            groups[-1] = grown
    return [_pack(chat, group, prefix) if packed else _pad(chat, group) for group in groups]


def _size(group: Sequence[Example], prefix: int, packed: bool) -> int:
    """Tokens of one pass, including padding."""
    if packed:
        return prefix + sum(
            len(e.prompt) - prefix + sum(len(answer) - 1 for answer in e.answers) for e in group
        )
    return sum(len(e.answers) for e in group) * max(
        len(e.prompt) - 1 + max(map(len, e.answers)) for e in group
    )


class _Labels:
    """Collects the place that predicts each label."""

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


def _pack(chat: ChatModel, examples: Sequence[Example], prefix: int) -> TeacherForcedBatch:
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
            # The last token of an answer predicts no label.
            body = answer[:-1]
            labels.add(example, which, 0, [last, *range(len(ids), len(ids) + len(body))])
            ids += body
            positions += range(len(example.prompt), len(example.prompt) + len(body))
            owner += [number] * len(body)
            branch += [which + 1] * len(body)
    device = chat.device
    mask = _build_mask(torch.tensor(owner), torch.tensor(branch))
    additive = torch.zeros(mask.shape, dtype=chat.model.dtype).masked_fill_(
        ~mask, torch.finfo(chat.model.dtype).min
    )
    return TeacherForcedBatch(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        additive[None, None].to(device),
        **labels.tensors(device),
        examples=examples,
    )


def _build_mask(owner: Int[Tensor, " token"], branch: Int[Tensor, " token"]) -> Tensor:
    """The mask: each token sees what comes before it in the shared beginning (owner 0), in its own
    prompt (branch 0) and in its own answer.
    """
    before = torch.ones(len(owner), len(owner), dtype=torch.bool).tril()
    same = owner[:, None] == owner[None]
    own = same & ((branch[None] == 0) | (branch[:, None] == branch[None]))
    return before & ((owner[None] == 0) | own)


def _pad(chat: ChatModel, examples: Sequence[Example]) -> TeacherForcedBatch:
    """One row per answer, padded on the left."""
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
    return TeacherForcedBatch(
        ids.to(device),
        positions.to(device),
        mask.to(device),
        **labels.tensors(device),
        examples=examples,
    )


@torch.inference_mode()
def packs_exactly(chat: ChatModel, examples: Sequence[Example], first: int = COMPARED) -> bool:
    """Whether packs give the same states as ordinary rows. Tried on the first examples, the
    shortest and the longest: the mask of a pack replaces that of sliding windows, which short
    prompts do not leave.
    """
    by_length = sorted(range(len(examples)), key=lambda index: examples[index].longest)
    chosen = {*range(min(first, len(examples))), *by_length[:1], *by_length[-1:]}
    sample = [examples[index] for index in sorted(chosen)]
    states: list[Tensor] = []
    for packed in (True, False):
        try:
            parts = [
                one.predicting(chat.hidden(one))
                for one in pack_examples(chat, sample, 1 << 30, packed=packed)
            ]
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            # The model does not accept a custom mask.
            return False
        states.append(torch.cat(parts))
    return _agree(*states)


def _agree(one: Float[Tensor, "label d_model"], other: Float[Tensor, "label d_model"]) -> bool:
    """Whether no state differs by more than rounding."""
    size = other.float().square().mean().sqrt()
    largest = (one.float() - other.float()).square().mean(-1).sqrt().max()
    return bool(largest <= ROUNDING.get(one.dtype, 1e-3) * size)


@contextmanager
def resume_at(chat: ChatModel, layer: int) -> Iterator[list[Stream]]:
    """A context in which forward passes resume at `layer`, with the stream that the caller puts
    into the yielded list (its one entry).

    The blocks below return their input; the last of them returns the given stream. The model still
    computes everything else, such as masks and rotary tables.
    """
    given: list[Stream] = []
    # The live model's own path: the folder's differs where text is loaded out of a VLM folder.
    live = architecture_of(chat.model)
    blocks = [chat.model.get_submodule(live.block(index)) for index in range(layer)]
    # accelerate keeps its hooks in the same place.
    replaced = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = _return_input
        if blocks:
            blocks[-1].forward = lambda *args, **kwargs: given[0]
        yield given
    finally:
        for block, forward in zip(blocks, replaced, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward


def _return_input(hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
    return hidden_states


@torch.inference_mode()
def resumes_exactly(chat: ChatModel, layer: int, one: TeacherForcedBatch) -> bool:
    """Whether passes of this model can resume at `layer`: blocks return only their stream, and no
    higher block uses anything else of a lower one.
    """
    block = chat.model.get_submodule(architecture_of(chat.model).block(layer - 1))
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
            return _agree(one.predicting(chat.hidden(one)), whole)
        # KeyError: Gemma 4's inputs per layer.
        except (ValueError, RuntimeError, TypeError, IndexError, KeyError) as error:
            if is_out_of_memory(error):
                raise
            return False
