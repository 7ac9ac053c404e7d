"""In what order passes are gone through: every epoch shuffled anew, the same for the same seed,
from any step on.
"""

from __future__ import annotations

import random

__all__ = ["PassOrder"]


class PassOrder:
    def __init__(self, count: int, name: str, seed: int) -> None:
        self.count, self.name, self.seed = count, name, seed

    def at(self, step: int) -> int:
        """The pass of a step."""
        epoch, place = divmod(step, self.count)
        order = list(range(self.count))
        random.Random(f"{self.seed} {self.name} {epoch}").shuffle(order)
        return order[place]
