"""Greedy answers token by token, as they are made: for a person who waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vectomy.core.config import BatchTokens
from vectomy.models.attention_kernels import without_cudnn_attention
from vectomy.models.decoding import generate

if TYPE_CHECKING:
    from vectomy.models.chat import ChatModel

__all__ = ["Tell", "can_share_a_batch", "stream_answers"]

Tell = Callable[[Sequence[Sequence[int]]], None]
"""Gets the tokens of each answer so far."""
EVERYTHING: BatchTokens = 1 << 30


class _Steps:
    """Collects the tokens of each row, up to the one that ends its answer.

    Attributes:
        interrupted: Ctrl-C came before the answers ended.
    """

    def __init__(self, rows: Sequence[int], ends: Sequence[int], tell: Tell) -> None:
        self.rows, self.ends, self.tell = rows, frozenset(ends), tell
        self.answers: list[list[int]] = [[] for _ in rows]
        self.has_prompt, self.interrupted = False, False

    def put(self, value: Tensor) -> None:
        if not self.has_prompt:
            self.has_prompt = True
            return
        for row, token in zip(self.rows, value.tolist(), strict=True):
            answer = self.answers[row]
            if not answer or answer[-1] not in self.ends:
                answer.append(token)
        self.tell(self.answers)

    def end(self) -> None:
        """Nothing is buffered."""


@torch.inference_mode()
def stream_answers(
    chat: ChatModel, tokens: Sequence[Sequence[int]], limit: int, tell: Tell
) -> tuple[list[list[int]], bool]:
    """The answers that `ChatModel.answer` gives, told after each of their tokens, and whether they
    are cut: Ctrl-C ends them where they are.

    A model that is read block by block, or whose thoughts have a budget of their own, is told once,
    at the end.

    Raises:
        ModelError: transformers fails on this type of model.
    """
    if chat.stream is not None or (chat.thinking and chat.thought_tokens is not None):
        whole = chat.answer(tokens, limit, EVERYTHING)
        tell(whole)
        return whole, False
    (batch,) = chat.batches(tokens, EVERYTHING)
    steps = _Steps(batch.rows, chat.end_tokens, tell)
    try:
        with without_cudnn_attention():
            generate(chat, batch, limit, steps)
    except KeyboardInterrupt:
        steps.interrupted = True
    return steps.answers, steps.interrupted


def can_share_a_batch(chat: ChatModel) -> bool:
    """Whether rows of other lengths leave a row's answer as it is, but for rounding."""
    from vectomy.models.kv_cache import has_plain_kv_cache

    return has_plain_kv_cache(chat.model)
