"""The blocks of a model without weights: each reads its own when it is called.

The blocks that were used last stay in memory while there is room for them; the next one is read in
a thread. Passes go up through the blocks, and backward passes that recompute blocks (recompute.py)
come down again, so the last blocks of one way are the first of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vectomy.models.memory import available_memory
from vectomy.models.weights import Page, Weights

__all__ = ["COMING", "SHARE", "BlockPages"]

# Blocks that stay in memory may take this share of what is free when the first one is read.
SHARE = 0.5
# Blocks beside those: one that is being read, and one that is being loaded.
COMING = 2


class BlockPages:
    """The weights of a model's blocks.

    Attributes:
        reads: how many blocks were read from disk so far.
    """

    def __init__(self, weights: Weights, blocks: Sequence[tuple[str, nn.Module]]) -> None:
        """`blocks` are the module paths of the blocks with the blocks, in order."""
        self.weights = weights
        self.paths = [path for path, _ in blocks]
        self.largest = max(map(weights.live_bytes, self.paths), default=0)
        self.reads = 0
        self.most = 1
        self.ahead = True
        self._pages: dict[int, Page] = {}
        self._reader = ThreadPoolExecutor(1)
        self._coming: tuple[int, Future[dict[str, Tensor]]] | None = None
        self._last: int | None = None
        self._lowest = 0
        self._repeats = False
        for layer, (_, block) in enumerate(blocks):
            # accelerate, `resume_at` and `recompute_blocks` keep their forward in the same place.
            block.forward = partial(self._run, layer, block.forward)

    def expect_passes(self) -> None:
        """From now on passes follow each other, up and down: let as many blocks stay in memory as
        it has room for, and read ahead across the ends.
        """
        self._repeats = True
        room = int(SHARE * available_memory(self.weights.device))
        self.most = max(1, room // max(1, self.largest) - COMING)

    @contextmanager
    def loaded(self, layer: int) -> Iterator[None]:
        """A context in which a block has its weights."""
        with self._page(layer).applied():
            yield

    def clear(self) -> None:
        """Give the memory of all blocks back."""
        self._pages.clear()
        self._coming = self._last = None

    def _run(self, layer: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.loaded(layer):
            return forward(*args, **kwargs)

    def _page(self, layer: int) -> Page:
        page = self._pages.pop(layer, None)
        if page is None:
            tensors = self._take(layer)
            while len(self._pages) >= self.most:
                del self._pages[next(iter(self._pages))]
            page = self.weights.page(self.paths[layer], tensors)
            self.reads += 1
        # The last one in this dict is the one that was used last.
        self._pages[layer] = page
        if layer != self._last:
            self._read_next(layer)
        return page

    def _take(self, layer: int) -> dict[str, Tensor]:
        coming, self._coming = self._coming, None
        if coming is not None and coming[0] == layer:
            return coming[1].result()
        return self.weights.read(self.weights.names(self.paths[layer]))

    def _read_next(self, layer: int) -> None:
        """Read the block that comes after `layer` in the thread."""
        down = self._last is not None and layer == self._last - 1
        if not down and layer != (-1 if self._last is None else self._last) + 1:
            # A pass begins; it may resume above the first block.
            self._lowest = layer
        self._last = layer
        following = self._guess_next(layer, down)
        coming = None if self._coming is None else self._coming[0]
        if self.ahead and following is not None and following not in self._pages and following != coming:
            names = self.weights.names(self.paths[following])
            self._coming = following, self._reader.submit(self.weights.read, names)

    def _guess_next(self, layer: int, down: bool) -> int | None:
        end = len(self.paths) - 1
        if layer == end and not self._repeats:
            return None
        if down:
            return layer - 1 if layer > self._lowest else min(layer + 1, end)
        if layer < end:
            return layer + 1
        # A backward pass comes down from here; without one, the next pass begins.
        return max(end - 1, 0) if torch.is_grad_enabled() else self._lowest
