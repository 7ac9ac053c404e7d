"""How the passes of a gradient search fit the memory that is free.

Plain passes are the fastest. Where the largest one would not fit, or a pass runs out of memory,
blocks are recomputed in the backward pass (same gradients to the bit); and where that is not
enough, passes are split into pieces whose gradients add up (same gradients to rounding).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.models import (
    ChatModel,
    TeacherForcedBatch,
    available_memory,
    count_saved_bytes,
    recompute_blocks,
)

__all__ = ["SHARE", "PassMemory"]

# Tensors for the backward pass may take this share of the free memory: the losses and the backward
# pass itself need the rest.
SHARE = 0.6
MOST_PIECES = 16


@runtime_checkable
class ForcedPass(Protocol):
    """A pass over given answers."""

    @property
    def forced(self) -> TeacherForcedBatch: ...


Target = TypeVar("Target", bound=ForcedPass)


class PassMemory:
    """Decides how passes run: `recompute` blocks or not, in how many `pieces`.

    Args:
        free: the free bytes of a device.
    """

    def __init__(self, chat: ChatModel, free: Callable[[torch.device], int] = available_memory) -> None:
        self.chat, self.free = chat, free
        # A model read block by block has no weights left when the backward pass begins; those of
        # offloaded blocks would all stay on the card until it ends.
        self.recompute = self._measured = chat.stream is not None or chat.offloaded
        self.pieces = 1
        self._split: dict[Any, list[Any]] = {}

    def measure(self, passes: Sequence[Target], run: Callable[[Target], Tensor]) -> None:
        """Recompute blocks if the largest pass would not fit otherwise. Counted once, on the
        smallest pass.
        """
        if self._measured or not passes:
            return
        self._measured = True
        sizes = [target.forced.tokens for target in passes]
        smallest, largest = min(sizes), max(sizes)
        target = passes[sizes.index(smallest)]
        try:
            saved = count_saved_bytes(lambda: run(target))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            saved = None
        if saved is None:
            self.lower()
            return
        # Attention without a fused kernel stores a square of scores.
        eager = self.chat.model.config._attn_implementation == "eager"
        growth = (largest / smallest) ** (2 if eager else 1)
        self.recompute = growth * saved > SHARE * self.free(self.chat.device)

    @property
    def lowest(self) -> bool:
        """Whether there is no way left to take less memory."""
        return self.recompute and self.pieces >= MOST_PIECES

    def lower(self) -> None:
        """Take less memory from now on."""
        if self.recompute:
            self.pieces = min(MOST_PIECES, 2 * self.pieces)
            self._split.clear()
        self.recompute = True
        gc.collect()
        if self.chat.device.type == "cuda":
            torch.cuda.empty_cache()

    def pieces_of(self, split: Callable[[Target, int], list[Target]], target: Target) -> list[Target]:
        """The pass, or the pieces of `split` that are run one after the other."""
        if self.pieces == 1:
            return [target]
        if target not in self._split:
            self._split[target] = split(target, self.pieces)
        return self._split[target]

    @contextmanager
    def saving(self, layer: int) -> Iterator[None]:
        """A context for the forward and backward pass of one piece that starts at `layer`."""
        with recompute_blocks(self.chat, layer) if self.recompute else nullcontext():
            yield
