"""A batch of prompts as one padded tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.types import TokenIds

__all__ = ["Batch", "Pass", "halve_until_fits", "pad_left"]

Result = TypeVar("Result")


@runtime_checkable
class Pass(Protocol):
    """Anything that has the inputs of one forward pass."""

    def inputs(self) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts of similar length, padded on the left; `rows` are their indices in the
    caller's list.
    """

    rows: list[int]
    input_ids: TokenIds
    attention_mask: TokenIds

    def inputs(self) -> dict[str, Any]:
        """Arguments of the base model's forward; each prompt's positions start at its
        first token.
        """
        positions = (self.attention_mask.cumsum(-1) - 1).clamp_min(0)
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": positions,
            "use_cache": False,
        }

    def halves(self) -> tuple[Batch, Batch]:
        middle = len(self.rows) // 2
        first, second = slice(None, middle), slice(middle, None)
        return (
            Batch(self.rows[first], self.input_ids[first], self.attention_mask[first]),
            Batch(self.rows[second], self.input_ids[second], self.attention_mask[second]),
        )


def pad_left(
    rows: Sequence[int], tokens: Sequence[Sequence[int]], width: int, pad_token: int, device: torch.device
) -> Batch:
    """A batch of prompts, padded on the left to `width` tokens."""
    ids = torch.full((len(rows), width), pad_token, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(tokens):
        ids[place, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[place, width - len(row) :] = 1
    return Batch(list(rows), ids.to(device), mask.to(device))


def halve_until_fits(
    batches: Iterable[Batch], work: Callable[[Batch], Result]
) -> Iterator[tuple[Batch, Result]]:
    """The batches with the results of `work`. A batch that runs out of memory is run as two halves,
    and the batches behind it as pieces of that size.

    Raises:
        RuntimeError, MemoryError: of `work`, where a single row does not fit.
    """
    most = None
    for whole in batches:
        waiting = [whole]
        while waiting:
            batch = waiting.pop()
            if most is not None and len(batch.rows) > most:
                waiting += reversed(batch.halves())
                continue
            try:
                result = work(batch)
            except (RuntimeError, MemoryError) as error:
                if len(batch.rows) == 1 or not is_out_of_memory(error):
                    raise
                most = (len(batch.rows) + 1) // 2
                result = None
            if result is None:
                # Out of the handler: its traceback holds the tensors of the failed pass.
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                waiting += reversed(batch.halves())
            else:
                yield batch, result
