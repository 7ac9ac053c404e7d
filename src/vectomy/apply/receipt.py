"""The coverage receipt: every residual writer of the model, edited or left with the reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Receipt"]


@dataclass(frozen=True)
class Receipt:
    """What a bake did.

    `edited` and `left` together name every tensor that writes to the stream; `parameters` counts the numbers in the
    edited ones; `notes` are the decisions a reader must know (an untied head, files left behind).
    """

    edited: tuple[str, ...]
    left: tuple[tuple[str, str], ...]
    parameters: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
