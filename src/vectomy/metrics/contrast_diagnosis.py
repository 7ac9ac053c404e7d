"""Whether the base's own answers make a contrast: it refuses the positive prompts and answers the
negative ones. Where it does not, the diagnosis says why in a sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vectomy.core.errors import BehaviourAbsentError, JudgeError
from vectomy.core.run_config import RunConfig
from vectomy.metrics.intervals import wilson_interval
from vectomy.metrics.judges import REFUSALS, Judgement
from vectomy.metrics.judges.judged_part import CUT_THOUGHT

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
    """The base's answers to one side of the contrast.

    Attributes:
        total: the answers that were judged.
        reasons: why each of the others was not judged.
    """

    refused: int
    degenerate: int
    total: int
    reasons: tuple[str, ...] = ()

    @property
    def asked(self) -> int:
        return self.total + len(self.reasons)

    @property
    def rate(self) -> float | None:
        """None if no answer was judged."""
        return self.refused / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the refusal rate."""
        return wilson_interval(self.refused, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.refused} of {self.total} ({low * 100:.0f}–{high:.0%})"


def count_side(judgements: Sequence[Judgement]) -> SideCounts:
    judged = [judgement for judgement in judgements if judgement.verdict != "not_judged"]
    return SideCounts(
        sum(judgement.verdict in REFUSALS for judgement in judged),
        sum(judgement.verdict == "degenerate" for judgement in judged),
        len(judged),
        tuple(
            judgement.note or "of no known kind"
            for judgement in judgements
            if judgement.verdict == "not_judged"
        ),
    )


def check_contrast(sides: Mapping[str, SideCounts], config: RunConfig) -> tuple[str, ...]:
    """Notes on a weak contrast, and on answers without a verdict; none where all is clear or the
    behaviour is not refusal.

    Args:
        sides: the base on the search prompts, by side (`positive`, `negative`).

    Raises:
        JudgeError: more than half of a side's answers could not be judged.
        BehaviourAbsentError: the base refuses nothing, everything, or the negative side more than
            the positive one. With `config.force` both are notes.
    """
    if config.contrast.behaviour != "refusal":
        return ()
    unjudged = {
        name: text for name, side in sides.items() if (text := _describe_unjudged(name, side, config))
    }
    for name, text in unjudged.items():
        if 2 * sides[name].total < sides[name].asked and not config.force:
            raise JudgeError(f"{text}, or --force to run anyway")
    positive, negative = sides["positive"], sides["negative"]
    if positive.rate is None or negative.rate is None:
        return tuple(unjudged.values())
    if problem := _find_problem(positive, negative, config):
        if not config.force:
            raise BehaviourAbsentError(f"{problem}, or --force to run anyway")
        return (*unjudged.values(), problem)
    return (*unjudged.values(), *_note_weakness(positive, negative))


def _describe_unjudged(name: str, side: SideCounts, config: RunConfig) -> str:
    """How many answers have no verdict, and why; empty where all have one."""
    if not side.reasons:
        return ""
    (reason, count), *_ = Counter(side.reasons).most_common()
    foreign = sum(text.startswith("not English") for text in side.reasons)
    of = f"of {side.asked} answers of the base model {config.model} to the {name} prompts"
    if foreign > len(side.reasons) / 2:
        return (
            f"{foreign} {of} are not in a language that this judge knows ({reason}), so whether they refuse "
            "is not known; give prompts that the model answers in English, or another --judge"
        )
    remedy = f"raise --answer-tokens (now {config.answer_tokens})"
    if config.runtime.thinking:
        remedy += ", give --no-thinking"
    if reason == CUT_THOUGHT:
        return f"{count} {of} were cut inside the thought, before an answer began: {remedy}"
    return f"{len(side.reasons)} {of} could not be judged ({reason}): {remedy}"


def _note_weakness(positive: SideCounts, negative: SideCounts) -> tuple[str, ...]:
    if negative.interval[1] >= positive.interval[0]:
        overlap = (
            f"the base refuses {positive} of the harmful search prompts and {negative} of the harmless "
            "ones: the intervals overlap, so the two sets may make no contrast"
        )
        return (overlap,)
    if negative.refused >= MANY * negative.total:
        weak = (
            f"the base refuses {negative} of the harmless search prompts as well: the two sets make a "
            "weaker contrast than their names promise"
        )
        return (weak,)
    return ()


def _find_problem(positive: SideCounts, negative: SideCounts, config: RunConfig) -> str:
    """Why the sides make no contrast; empty where they may make one."""
    contrast, absent = config.contrast, positive.refused < LEAST_RATE * positive.total
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
    if negative.refused >= MOST_RATE * negative.total:
        return (
            f"the base model {config.model} refuses {positive} of the harmful prompts and {negative} of the "
            f"harmless prompts as well ({contrast.negative.prompts}): the two sets make no contrast, so no "
            "direction tells a refusal from an answer; give harmless prompts that the base answers "
            "(--negative)"
        )
    return ""
