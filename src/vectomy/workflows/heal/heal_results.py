"""What the numbers of the three models say: how much of the damage is healed, and whether the
behaviour came back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vectomy.metrics.mcnemar import mcnemar
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
    base, edited, healed = (measures[name]["refusal"] for name in MODELS)
    low, high = edited["ci"]
    verdict = {
        True: "it came back",
        False: "it did not come back",
        None: "whether it came back is not known, for no answer was judged",
    }[outcome["came_back"]]
    shares = outcome["recovered"]
    parts = [
        f"{shares[name]:.0%} of the {label}"
        for name, label in (
            ("kl_per_token", "KL per token"),
            ("ce_own_answers", "cross-entropy of the base's answers"),
        )
        if shares[name] is not None
    ]
    healing = (
        f"Healing took back {' and '.join(parts)} that the edit had added."
        if parts
        else "The edit had added no damage that was measured."
    )
    unjudged = sum(measures[name]["refusal"].get("not_judged", 0) for name in MODELS)
    rest = f" {unjudged} answers could not be judged and are in none of these numbers." if unjudged else ""
    return (
        f"The edit changed {behaviour}: shown on {base['count']} of {base['total']} prompts before it, "
        f"{edited['count']} after it ({low:.0%} to {high:.0%}). After healing {healed['count']}: {verdict}. "
        f"{healing}{rest}"
    )
