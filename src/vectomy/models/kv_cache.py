"""Keys and values of the rows that are being answered, with room for coming tokens.

transformers' own cache grows by concatenation, which copies all of it for every token. Here a token
is written into its column, a row that joins takes the place of one that has left, and the cache is
copied when its room is used up or many rows are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

__all__ = [
    "RoomyCache",
    "drop_columns",
    "has_plain_kv_cache",
    "has_windows",
    "join_rows",
    "repeat_row",
    "replace_rows",
    "start_cache",
]

# Kinds of attention whose mask follows from the distance between two columns.
BY_DISTANCE = {"full_attention", "sliding_attention"}


def has_plain_kv_cache(model: Any) -> bool:
    """Whether the model caches nothing but keys and values, of full attention or of a window."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    layers = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return bool(layers) and layers <= {DynamicLayer, DynamicSlidingWindowLayer} and kinds <= BY_DISTANCE


def has_windows(model: Any) -> bool:
    """Whether some layers see the last tokens only."""
    return any(
        isinstance(layer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=model.config).layers
    )


class RoomyLayer(DynamicLayer):
    """One layer's keys and values (row, head, column, d). A layer with a window keeps all columns;
    its mask hides those outside.
    """

    def __init__(self, sliding: bool) -> None:
        super().__init__()
        self.is_sliding = sliding
        self.keys: Tensor
        self.values: Tensor
        self.buffers: list[Tensor] = []
        # Columns of the buffers that no row needs any more.
        self.start = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new columns, and return all."""
        if not self.buffers:
            keys, values = super().update(key_states, value_states)
            return keys, values
        first = self.start + self.keys.shape[-2]
        end = first + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, first:end] = states
        self.keys, self.values = (buffer[:, :, self.start : end] for buffer in self.buffers)
        return self.keys, self.values

    def drop(self, columns: int) -> None:
        """Leave the first columns out."""
        self.start += columns
        self.keys, self.values = self.keys[:, :, columns:], self.values[:, :, columns:]

    def fill(self, parts: Sequence[tuple[Tensor, Tensor]], width: int, room: int) -> None:
        """Hold these rows, each part ending at column `width`, and `room` columns behind it."""
        self.buffers, self.start = [], 0
        for states in zip(*parts, strict=True):
            rows, (_, heads, _, d) = sum(map(len, states)), states[0].shape
            # Zeros, because a masked column still takes part in sums.
            buffer = states[0].new_zeros(rows, heads, width + room, d)
            start = 0
            for part in states:
                end = start + len(part)
                buffer[start:end, :, width - part.shape[-2] : width] = part
                start = end
            self.buffers.append(buffer)
        self.keys, self.values = (buffer[:, :, :width] for buffer in self.buffers)
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True


class RoomyCache(Cache):
    """All layers. `room` is the number of free columns since the last `join_rows`."""

    room = 0


def start_cache(model: Any) -> RoomyCache:
    """An empty cache of the model."""
    layers = DynamicCache(config=model.config).layers
    return RoomyCache([RoomyLayer(isinstance(layer, DynamicSlidingWindowLayer)) for layer in layers])


def repeat_row(cache: RoomyCache, n: int) -> RoomyCache:
    """A cache of `n` rows that are each the one row of `cache`, which stays as it is."""
    layers = []
    for layer in cache.layers:
        repeated = RoomyLayer(layer.is_sliding)
        if layer.is_initialized:
            repeated.lazy_initialization(layer.keys, layer.values)
            repeated.keys, repeated.values = (
                states.expand(n, -1, -1, -1) for states in (layer.keys, layer.values)
            )
        layers.append(repeated)
    return RoomyCache(layers)


def drop_columns(cache: RoomyCache, columns: int) -> None:
    """Leave the first columns out of all layers, without a copy."""
    for layer in cache.layers:
        if layer.is_initialized:
            layer.drop(columns)


def replace_rows(cache: RoomyCache, places: Sequence[int], joining: Sequence[Any]) -> None:
    """Write the rows of other caches over some rows of a cache, their columns ending at its last
    one. The other caches are emptied.

    Args:
        places: indices of rows, one for each row that joins.
    """
    for index, layer in enumerate(cache.layers):
        first = 0
        for other in joining:
            new = other.layers[index]
            if not new.is_initialized:
                continue
            count, width = len(new.keys), new.keys.shape[-2]
            rows = torch.tensor(places[first : first + count], device=layer.keys.device)
            first += count
            for own, states in ((layer.keys, new.keys), (layer.values, new.values)):
                # What is left of the row before lies in columns that the mask hides.
                own[rows, :, own.shape[-2] - width :] = states
            new.reset()


def join_rows(
    cache: RoomyCache, kept: Tensor | None, used: int, joining: Sequence[Any], width: int, room: int
) -> None:
    """Keep some rows of a cache, put those of other caches behind them, and make room for tokens.
    The other caches are emptied.

    Args:
        kept: indices of rows; None for an empty cache.
        used: the last columns of the cache that the kept rows need.
        width: the columns of the result, before the room. The columns of each part end there.
    """
    for index, layer in enumerate(cache.layers):
        parts = []
        if kept is not None and layer.is_initialized:
            rows = kept.to(layer.keys.device)
            parts.append((layer.keys[rows, :, -used:], layer.values[rows, :, -used:]))
        for other in joining:
            new = other.layers[index]
            if new.is_initialized:
                parts.append((new.keys, new.values))
                new.reset()
        if parts:
            layer.fill(parts, width, room)
    cache.room = room
