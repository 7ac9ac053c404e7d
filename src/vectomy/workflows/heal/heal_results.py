"""What the numbers of the three models say: how much of the damage is healed, and whether the
behaviour came back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vectomy.core.results import HealedNumbers
from vectomy.metrics.mcnemar import mcnemar
from vectomy.report import compare_rates, describe_change
from vectomy.report.tables.numbers import interval
from vectomy.workflows.heal.heal_measurements import MODELS

__all__ = ["HEALED", "compute_outcome", "describe_outcome"]

HEALED = ("kl_first_token", "kl_per_token", "ce_own_answers")


def compute_outcome(measures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`recovered` is, by measure, the share of the edit's damage that is gone (1: as the base; None
    where there was none).

    The behaviour came back if the healed model shows it more often than the interval of the edited
    one allows; None if no answer of one of them was judged.
    """
    base, edited, healed = (measures[name] for name in MODELS)
    allowed, after = edited["refusal"]["ci"][1], healed["refusal"]["rate"]
    return {
        "recovered": {name: _recovered(base[name], edited[name], healed[name]) for name in HEALED},
        "came_back": None if None in (edited["refusal"]["rate"], after) else after > allowed,
        "allowed": allowed,
        "paired": mcnemar(edited["refused"], healed["refused"]),
    }


def _recovered(base: float, edited: float, healed: float) -> float | None:
    damage = edited - base
    return (edited - healed) / damage if damage > 0 else None


def describe_outcome(
    behaviour: str, measures: Mapping[str, Mapping[str, Any]], outcome: Mapping[str, Any]
) -> str:
    """In words, for a person who reads nothing else."""
    before, edited, healed = (HealedNumbers.from_json(measures[name]) for name in MODELS)
    noun = "Refusals" if behaviour == "refusal" else f"Answers that show '{behaviour}'"
    changed = compare_rates(before.refusal, edited.refusal)
    told = describe_change(changed, f"{noun} on the positive prompts", between="of the edit")
    count = f"After healing they are {healed.refusal.count} of {healed.refusal.total}"
    if outcome["came_back"] is None:
        verdict = "whether the behaviour came back is not known, for no answer was judged"
    elif not changed.falls:
        verdict = "the edit had not measurably lowered them, so nothing could come back"
    else:
        verdict = "it came back" if outcome["came_back"] else "it did not come back"
    if edited.refusal.ci:
        verdict = f"the edited model's interval is {interval(edited.refusal.ci)}: {verdict}"
    sentences = [told, f"{count}; {verdict}.", _describe_recovery(outcome)]
    if None not in (degenerate := [model.degenerate.count for model in (before, edited, healed)]):
        sentences.append(
            f"Degenerate answers on all prompts: {degenerate[0]} before the edit, {degenerate[1]} after it, "
            f"{degenerate[2]} after healing."
        )
    if healed.refusal.not_judged:
        sentences.append(
            f"After healing {healed.refusal.not_judged} answers could not be judged and are in none of these "
            "numbers."
        )
    return " ".join(sentences)


def _describe_recovery(outcome: Mapping[str, Any]) -> str:
    shares = outcome["recovered"]
    parts = [
        f"{shares[name]:.0%} of the {label}"
        for name, label in (
            ("kl_per_token", "KL per token"),
            ("ce_own_answers", "cross-entropy of the base's answers"),
        )
        if shares[name] is not None
    ]
    if not parts:
        return "The edit had added no damage that was measured."
    return f"Healing took back {' and '.join(parts)} that the edit had added."
