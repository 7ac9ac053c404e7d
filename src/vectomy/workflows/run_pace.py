"""How long a whole run will still take: its plan's shares of the stages, at the pace of the stages
that are done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from vectomy.models.model_shape import ModelShape
from vectomy.models.speed_probe import CallTime, Speeds

__all__ = ["RunPace", "usual_speeds"]

# Of the planned work, what has to be done before the rest is estimated from it.
MEASURED_SHARE = 0.02
# Operations a second, and bytes a second of memory, of a common processor and of a common card.
OPERATIONS = {"cpu": 1e11, "card": 5e13}
MEMORY = {"cpu": 2e10, "card": 1e12}


def usual_speeds(shape: ModelShape, device: str) -> Speeds:
    """Speeds of a common machine: measuring nothing, they give the shares of the stages, not their
    seconds.
    """
    kind = "cpu" if device == "cpu" else "card"
    each = 2 * shape.multiplied / OPERATIONS[kind]
    passed = CallTime(0.0, each)
    return Speeds(
        device=device,
        passed=passed,
        trained=CallTime(0.0, 2.5 * each),
        step=CallTime(shape.multiplied * shape.itemsize / MEMORY[kind], each),
        label=CallTime(0.0, 2 * shape.head_parameters / OPERATIONS[kind]),
        float32=CallTime(4 * shape.parameters / MEMORY[kind], 2 * each),
        read_byte=1e-9,
        written_byte=2e-9,
        hashed_byte=1e-9,
    )


class RunPace:
    """Seconds to the end of a run.

    Args:
        planned: seconds of each stage, in any unit that is common to them.
    """

    def __init__(self, planned: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._left, self._total = dict(planned), sum(planned.values())
        self._clock = clock
        self._done = self._seconds = 0.0
        self._began: float | None = None

    def begin(self) -> float | None:
        """Called when a stage starts to work. Returns the seconds to the end of the run, or None
        while too little is measured.
        """
        self._began = self._clock()
        if not self._done or self._done < MEASURED_SHARE * self._total:
            return None
        return sum(self._left.values()) * self._seconds / self._done

    def end(self, stage: str) -> None:
        """Called when a stage is done, whether it worked or its results were there already."""
        share = self._left.pop(stage, 0.0)
        if self._began is not None:
            self._done, self._seconds = self._done + share, self._seconds + self._clock() - self._began
        else:
            self._total -= share
        self._began = None
