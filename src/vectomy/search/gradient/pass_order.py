"""The order of the training passes: each epoch is shuffled with its own seed, so the order can be
reproduced from any step.
"""

from __future__ import annotations

import random

__all__ = ["PassOrder"]


class PassOrder:
    """Args: `count` of passes, `name` and `seed` that the shuffles depend on."""

    def __init__(self, count: int, name: str, seed: int) -> None:
        self.count, self.name, self.seed = count, name, seed

    def at(self, step: int) -> int:
        """The index of the pass at a step."""
        epoch, place = divmod(step, self.count)
        order = list(range(self.count))
        random.Random(f"{self.seed} {self.name} {epoch}").shuffle(order)
        return order[place]
