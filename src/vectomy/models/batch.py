"""A batch of prompts as one padded tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from vectomy.core.types import TokenIds

__all__ = ["Batch", "Pass"]


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
