"""What to do with a run that is finished: the answers to the menu at its end, given beforehand.
Loads no torch.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from vectomy.core.config import EDIT, OUTPUT, Panel, StrictModel
from vectomy.core.errors import UsageError

__all__ = ["AfterRun", "NextStep", "Tracker"]

Tracker = Literal["none", "tensorboard", "wandb", "trackio"]
NextStep = Literal["nothing", "save", "bake", "chat", "evaluate", "push"]


def _check_finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("input should be a finite number")
    return value


class AfterRun(StrictModel):
    """The table `after` of a configuration file, and the options of `run` of these names."""

    PANEL: ClassVar[Panel] = OUTPUT

    then: NextStep | None = None
    """What to do when the run is finished, as its menu at a terminal offers it; nobody is asked."""
    then_to: str | None = None
    """Where --then writes: a file (save), a new folder (bake, evaluate) or OWNER/NAME (push)."""
    point: Annotated[str | None, EDIT] = None
    """Point of the run, as `vectomy pick` lists it: for --then, or the menu's first. [default:
    the rule's]
    """
    strength: Annotated[float, AfterValidator(_check_finite), EDIT] = 1.0
    """Strength of the edit: for --then; multiplies that of the point."""
    report_to: Tracker = "none"
    """Tracker: of the losses of the search and the numbers of the run."""

    def check(self, asked: bool) -> None:
        """Before a run of hours.

        Args:
            asked: a person will see the menu.

        Raises:
            UsageError: a target is missing, or an answer that belongs to no question.
        """
        if self.then in ("bake", "push") and not self.then_to:
            where = "OWNER/NAME" if self.then == "push" else "a new folder"
            raise UsageError(f"--then {self.then} needs {where}: give it with --then-to")
        if self.then in (None, "nothing") and not asked and (orphan := self._name_orphan()):
            raise UsageError(orphan)

    def _name_orphan(self) -> str:
        """What is wrong with an answer where no step is named, and what to do instead."""
        if self.strength != 1.0:
            return (
                "--strength is of --then (e.g. --then bake); to scale a finished edit: vectomy apply RUN "
                f"MODEL --strength {self.strength:g} --out NEW"
            )
        if self.point is not None:
            return (
                "--point is of --then (e.g. --then bake); to take a point of a finished run: vectomy pick "
                f"RUN --take {self.point}"
            )
        return "" if self.then_to is None else "--then-to is of --then: name the step (e.g. --then save)"
