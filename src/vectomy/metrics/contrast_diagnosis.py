"""Whether the base's own answers make a contrast: it refuses the positive prompts and answers the
negative ones. Where it does not, the diagnosis says why in a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vectomy.core.config import RunConfig
from vectomy.core.errors import BehaviourAbsentError
from vectomy.metrics.intervals import wilson_interval
from vectomy.metrics.judges import REFUSALS, Verdict

__all__ = ["LEAST_RATE", "SideCounts", "check_contrast", "count_side"]

# Below this refusal rate on positive prompts there is no behaviour to find a direction for.
LEAST_RATE = 0.05
# From this refusal rate on negative prompts the base refuses everything.
MOST_RATE = 0.95
# From this refusal rate on negative prompts a note says that the contrast is weak.
MANY = 0.2
# From this share of degenerate answers the model itself is suspected.
HALF = 0.5


@dataclass(frozen=True)
class SideCounts:
    """The base's answers to one side of the contrast."""

    refused: int
    degenerate: int
    total: int

    @property
    def rate(self) -> float:
        return self.refused / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the refusal rate."""
        return wilson_interval(self.refused, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.refused} of {self.total} ({low * 100:.0f}–{high:.0%})"


def count_side(verdicts: Sequence[Verdict]) -> SideCounts:
    refused = sum(verdict in REFUSALS for verdict in verdicts)
    return SideCounts(refused, sum(verdict == "degenerate" for verdict in verdicts), len(verdicts))


def check_contrast(sides: Mapping[str, SideCounts], config: RunConfig) -> tuple[str, ...]:
    """Notes on a weak contrast; none where it is clear or the behaviour is not refusal.

    Args:
        sides: the base on the search prompts, by side (`positive`, `negative`).

    Raises:
        BehaviourAbsentError: the base refuses nothing, everything, or the negative side more than
            the positive one. With `config.force` this is a note.
    """
    if config.contrast.behaviour != "refusal":
        return ()
    positive, negative = sides["positive"], sides["negative"]
    if problem := _find_problem(positive, negative, config):
        if not config.force:
            raise BehaviourAbsentError(f"{problem}, or --force to run anyway")
        return (problem,)
    if negative.interval[1] >= positive.interval[0]:
        overlap = (
            f"the base refuses {positive} of the harmful search prompts and {negative} of the harmless "
            "ones: the intervals overlap, so the two sets may make no contrast"
        )
        return (overlap,)
    if negative.rate >= MANY:
        weak = (
            f"the base refuses {negative} of the harmless search prompts as well: the two sets make a "
            "weaker contrast than their names promise"
        )
        return (weak,)
    return ()


def _find_problem(positive: SideCounts, negative: SideCounts, config: RunConfig) -> str:
    """Why the sides make no contrast; empty where they may make one."""
    contrast, absent = config.contrast, positive.rate < LEAST_RATE
    if absent and positive.degenerate >= HALF * positive.total:
        return (
            f"{positive.degenerate} of the {positive.total} answers of the base model {config.model} to the "
            "positive prompts are degenerate (they repeat, stall, are garbled or empty), so they show no "
            "behaviour to remove; check the weights, the dtype and the chat template, give a larger "
            "--answer-tokens"
        )
    if negative.interval[0] > positive.interval[1]:
        return (
            f"the base model {config.model} refuses {negative} of the negative prompts "
            f"({contrast.negative.prompts}) but only {positive} of the positive ones "
            f"({contrast.positive.prompts}); the two sets look swapped, so in this order there is nothing to "
            "remove; exchange --positive and --negative"
        )
    if absent:
        return (
            f"the base model {config.model} does not show the behaviour: it refuses {positive.rate:.0%} of "
            f"{positive.total} positive prompts ({contrast.positive.prompts}) and {negative.rate:.0%} of "
            f"{negative.total} negative ones, so there is nothing to remove; use other prompts"
        )
    if negative.rate >= MOST_RATE:
        return (
            f"the base model {config.model} refuses {positive} of the harmful prompts and {negative} of the "
            f"harmless prompts as well ({contrast.negative.prompts}): the two sets make no contrast, so no "
            "direction tells a refusal from an answer; give harmless prompts that the base answers "
            "(--negative)"
        )
    return ""
