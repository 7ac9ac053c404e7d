"""Greedy decoding of many prompts: their shared beginning runs once, rows whose answer has ended
leave, and waiting prompts take their places.

All rows of a step write one column of the cache, and each row's columns end at it. Distances are
those of an unpadded prompt, so that windows of attention keep their meaning. Only for models whose
cache holds nothing but keys and values; others (recurrent states, convolutions) use `generate` of
transformers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vectomy.core.module_io import inner_model
from vectomy.core.pass_rows import pass_rows
from vectomy.models.batch import pad_left

__all__ = ["ROOM", "GreedyDecoder", "shared_beginning"]

# Waiting prompts take the places of ended rows once this share of the rows has ended; where none
# wait, the cache is copied without the ended rows.
REPLACED, ENDED = 0.06, 0.25
# Columns of the cache for coming tokens.
ROOM = 128
# Steps between two looks at the tokens of a card: each look waits for it.
STEPS_ON_A_CARD = 8


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


@dataclass
class _Rows:
    """Rows that are decoded together.

    Attributes:
        prompts: the index of each row's prompt.
        ids: each row's last token, which no pass has read yet.
        positions: the position of that token in its row.
        mask: 1 in the columns of a row's own tokens.
        open: indices of the rows whose answer has not ended.
    """

    prompts: list[int]
    ids: Int[Tensor, "row 1"]
    positions: Int[Tensor, "row 1"]
    mask: Int[Tensor, "row column"]
    cache: Any
    open: list[int]

    @property
    def free(self) -> list[int]:
        """Indices of the rows whose answer has ended."""
        return sorted(set(range(len(self.prompts))) - set(self.open))

    def takes(self, width: int) -> bool:
        """Whether a row of so many columns can take the place of an ended one, without a copy."""
        return bool(self.free and self.cache.room) and width <= self.mask.shape[1]

    def replace(self, parts: Sequence[_Rows]) -> None:
        """Put the rows of all parts into the places of ended ones, and leave out the columns that
        none uses.
        """
        from vectomy.models.kv_cache import drop_columns, replace_rows

        places = self.free[: sum(len(part.prompts) for part in parts)]
        replace_rows(self.cache, places, [part.cache for part in parts])
        first = 0
        for part in parts:
            rows = places[first : first + len(part.prompts)]
            first += len(rows)
            self.mask[rows] = 0
            self.mask[rows, -part.mask.shape[1] :] = part.mask
            self.ids[rows], self.positions[rows] = part.ids, part.positions
            for row, prompt in zip(rows, part.prompts, strict=True):
                self.prompts[row] = prompt
        self.open = sorted([*self.open, *places])
        unused = int(self.mask[self.open].argmax(-1).min())
        self.mask = self.mask[:, unused:]
        drop_columns(self.cache, unused)

    def leave(self) -> _Rows:
        """The open rows, without the columns that none of them uses. The cache stays as it is."""
        kept = torch.tensor(self.open, device=self.ids.device)
        prompts = [self.prompts[row] for row in self.open]
        mask = self.mask[kept]
        mask = mask[:, int(mask.argmax(-1).min()) :]
        return _Rows(prompts, self.ids[kept], self.positions[kept], mask, self.cache, self.open)


class GreedyDecoder:
    """Answers prompts that share `beginning`, which runs once."""

    def __init__(
        self,
        model: Any,
        pick: Callable[[Float[Tensor, "row d_model"]], Int[Tensor, " row"]],
        beginning: Sequence[int],
        ends: Collection[int],
        device: torch.device,
        pad_token: int = 0,
    ) -> None:
        """`pick` maps each row's last hidden state to its next token."""
        self.model, self.pick, self.ends, self.device = model, pick, frozenset(ends), device
        self.beginning, self.pad_token = list(beginning), pad_token
        self.steps = 1 if device.type == "cpu" else STEPS_ON_A_CARD
        self._begun: Any = None

    def answers(
        self, prompts: Mapping[int, Sequence[int]], limit: int, places: int, pass_tokens: int
    ) -> Iterator[tuple[int, list[int]]]:
        """Each prompt's index and answer, as answers end: at most `limit` tokens, including the end
        of turn. The longest prompts are read first.

        Args:
            prompts: by index, without the beginning.
            places: tokens in the cache at once, with padding and room for answers.
            pass_tokens: tokens in one pass over prompts.
        """
        waiting = deque(sorted(prompts, key=lambda index: (-len(prompts[index]), index)))
        answers: dict[int, list[int]] = {}
        rows: _Rows | None = None
        while waiting or rows is not None:
            longest = len(self.beginning) + len(prompts[waiting[0]]) if waiting else 0
            replaces = rows is not None and bool(waiting) and rows.takes(longest)
            if rows is not None and not replaces:
                rows = rows.leave()
            width = max(longest, 0 if rows is None else rows.mask.shape[1])
            free = max(1, places // (width + limit)) - (0 if rows is None else len(rows.prompts))
            free = len(rows.free) if rows is not None and replaces else free
            joining = [waiting.popleft() for _ in range(min(len(waiting), free))]
            parts = list(self._read({index: prompts[index] for index in joining}, pass_tokens))
            for part in parts:
                picked = part.ids[:, 0].tolist()
                answers |= {index: [token] for index, token in zip(part.prompts, picked, strict=True)}
            if rows is not None and replaces:
                rows.replace(parts)
            else:
                parts = parts if rows is None else [rows, *parts]
                most = limit - min(len(answers[index]) for part in parts for index in part.prompts)
                rows = self._join(rows, parts, min(ROOM, most))
            yield from self._decode(rows, answers, limit, REPLACED if waiting else ENDED)
            rows = rows if rows.open else None

    def _read(self, prompts: Mapping[int, Sequence[int]], pass_tokens: int) -> Iterator[_Rows]:
        """Passes over prompts, up to the first token of their answers."""
        indices, length = list(prompts), len(self.beginning)
        while indices:
            width = len(prompts[indices[0]])
            count = max(1, pass_tokens // max(1, width))
            batch = pad_left(
                indices[:count],
                [prompts[index] for index in indices[:count]],
                width,
                self.pad_token,
                self.device,
            )
            indices = indices[count:]
            own, n = batch.attention_mask, len(batch.rows)
            mask = torch.cat([own.new_ones(n, length), own], dim=1)
            positions = (mask.cumsum(-1) - 1)[:, length:].clamp_min(0)
            cache = self._begin(n)
            with pass_rows(batch.rows):
                hidden = self._forward(batch.input_ids, mask, positions, cache)
            ids = self.pick(hidden[:, -1])[:, None].to(self.device)
            yield _Rows(batch.rows, ids, positions[:, -1:] + 1, mask, cache, list(range(n)))

    def _begin(self, n: int) -> Any:
        """A cache of `n` rows that holds the beginning."""
        from vectomy.models.kv_cache import repeat_row, start_cache

        if not self.beginning:
            return start_cache(self.model)
        if self._begun is None:
            ids = torch.tensor([self.beginning], device=self.device)
            self._begun = start_cache(self.model)
            positions = torch.arange(ids.shape[1], device=self.device)[None]
            self._forward(ids, torch.ones_like(ids), positions, self._begun)
        return repeat_row(self._begun, n)

    def _join(self, rows: _Rows | None, parts: Sequence[_Rows], room: int) -> _Rows:
        """The rows of all parts, with `room` columns for coming tokens. `rows`, the first part, are
        those that stay of a cache that still holds others.
        """
        from vectomy.models.kv_cache import join_rows, start_cache

        width = max(part.mask.shape[1] for part in parts)
        n = sum(len(part.prompts) for part in parts)
        cache = start_cache(self.model) if rows is None else rows.cache
        kept = None if rows is None else torch.tensor(rows.open, device=self.device)
        used = 0 if rows is None else rows.mask.shape[1]
        joining = [part.cache for part in parts if part is not rows]
        join_rows(cache, kept, used, joining, width, room)
        mask = parts[0].mask.new_zeros(n, width)
        start = 0
        for part in parts:
            end = start + len(part.prompts)
            mask[start:end, width - part.mask.shape[1] :] = part.mask
            start = end
        ids, positions = (
            torch.cat(values) for values in zip(*((part.ids, part.positions) for part in parts), strict=True)
        )
        prompts = [index for part in parts for index in part.prompts]
        return _Rows(prompts, ids, positions, mask, cache, list(range(n)))

    def _decode(
        self, rows: _Rows, answers: dict[int, list[int]], limit: int, share: float
    ) -> Iterator[tuple[int, list[int]]]:
        """Decode until a share of the rows has ended, or the room of the cache is used up."""
        n = len(rows.prompts)
        while True:
            ended = [row for row in rows.open if self._has_ended(answers[rows.prompts[row]], limit)]
            for row in ended:
                yield rows.prompts[row], answers[rows.prompts[row]]
            rows.open = [row for row in rows.open if row not in set(ended)]
            if not rows.open or n - len(rows.open) >= share * n or not rows.cache.room:
                return
            most = limit - min(len(answers[rows.prompts[row]]) for row in rows.open)
            steps = min(self.steps, rows.cache.room, most)
            rows.cache.room -= steps
            picked = [self._step(rows) for _ in range(steps)]
            for row, tokens in enumerate(torch.stack(picked, dim=1).tolist()):
                answer = answers[rows.prompts[row]]
                for token in tokens:
                    if not self._has_ended(answer, limit):
                        answer.append(token)

    def _has_ended(self, answer: Sequence[int], limit: int) -> bool:
        return len(answer) >= limit or answer[-1] in self.ends

    def _step(self, rows: _Rows) -> Int[Tensor, " row"]:
        """The next token of each row."""
        rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(rows.mask), 1)], dim=1)
        with pass_rows(rows.prompts):
            hidden = self._forward(rows.ids, rows.mask, rows.positions, rows.cache)
        picked = self.pick(hidden[:, -1]).to(self.device)
        rows.ids, rows.positions = picked[:, None], rows.positions + 1
        return picked

    def _forward(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any
    ) -> Float[Tensor, "row seq d_model"]:
        hidden: Tensor = inner_model(self.model)(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return hidden
