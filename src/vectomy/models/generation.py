"""Greedy decoding with fewer computed tokens: the shared beginning of all prompts runs once, and
rows leave the batch when their answer has ended.

Only for models whose cache holds nothing but attention keys and values, which can be repeated and
selected by row. Other models (recurrent states, convolutions, windows) use `generate` of
transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.module_io import inner_model
from vectomy.models.batch import Batch

__all__ = ["Greedy", "has_plain_kv_cache", "shared_beginning"]

# Ended rows leave the batch once they are this share of it; each removal costs a copy of the cache.
ENDED = 0.25


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all prompts begin with, leaving each at least one token
    of its own.
    """
    shared = 0
    for column in zip(*prompts, strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return min(shared, min(map(len, prompts), default=1) - 1)


def has_plain_kv_cache(model: Any) -> bool:
    """Whether the model caches nothing but keys and values of full attention."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    return {type(layer) for layer in DynamicCache(config=model.config).layers} == {DynamicLayer}


class Greedy:
    """Decodes batches of prompts that share `beginning`, which runs once, at the first batch."""

    def __init__(
        self,
        model: Any,
        pick: Callable[[Float[Tensor, "row d_model"]], Tensor],
        beginning: Sequence[int],
        ends: Collection[int],
        device: torch.device,
    ) -> None:
        """`pick` maps each row's last hidden state to its next token."""
        self.model, self.pick, self.ends, self.device = model, pick, frozenset(ends), device
        self.beginning = list(beginning)
        self._cache: Any = None

    def answers(self, batch: Batch, limit: int) -> list[list[int]]:
        """At most `limit` tokens per row, including the end of turn. The prompts in the batch must
        not contain the beginning.
        """
        n, length = len(batch.rows), len(self.beginning)
        cache = self._start(n)
        mask = torch.cat([batch.attention_mask.new_ones(n, length), batch.attention_mask], dim=1)
        ids, positions = batch.input_ids, (mask.cumsum(-1) - 1)[:, length:].clamp_min(0)
        answers: list[list[int]] = [[] for _ in range(n)]
        rows = list(range(n))
        for _ in range(limit):
            hidden = self._forward(ids, mask, positions, cache)
            picked = self.pick(hidden[:, -1]).tolist()
            for row, token in zip(rows, picked, strict=True):
                if not answers[row] or answers[row][-1] not in self.ends:
                    answers[row].append(token)
            ids, positions = torch.tensor(picked, device=self.device)[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            open_ = [index for index, row in enumerate(rows) if answers[row][-1] not in self.ends]
            if not open_:
                break
            if len(rows) - len(open_) >= ENDED * len(rows):
                keep = torch.tensor(open_, device=self.device)
                cache.batch_select_indices(keep)
                ids, positions, mask = ids[keep], positions[keep], mask[keep]
                rows = [rows[index] for index in open_]
        return answers

    def _start(self, rows: int) -> Any:
        from transformers import DynamicCache

        if not self.beginning:
            return DynamicCache(config=self.model.config)
        if self._cache is None:
            ids = torch.tensor([self.beginning], device=self.device)
            self._cache = DynamicCache(config=self.model.config)
            self._forward(
                ids, torch.ones_like(ids), torch.arange(ids.shape[1], device=self.device)[None], self._cache
            )
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache

    def _forward(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any
    ) -> Float[Tensor, "row seq d_model"]:
        hidden: Tensor = inner_model(self.model)(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return hidden
