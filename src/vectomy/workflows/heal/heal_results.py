"""What the numbers of the three models say: how much of the damage is healed, and whether the
behaviour came back.
"""

from __future__ import annotations

from collections.abc import Mapping

from vectomy.core.results import HealedNumbers, HealingOutcome, PairedTest
from vectomy.core.results.json_record import Number
from vectomy.metrics.mcnemar import mcnemar
from vectomy.report import compare_rates, describe_change
from vectomy.report.tables.numbers import interval
from vectomy.workflows.heal.heal_measurements import MODELS

__all__ = ["HEALED", "compute_outcome", "describe_outcome"]

HEALED = ("kl_first_token", "kl_per_token", "ce_own_answers")


def compute_outcome(measures: Mapping[str, HealedNumbers]) -> HealingOutcome:
    """`recovered` is, by measure, the share of the edit's damage that is gone (1: as the base; None
    where there was none).

    The behaviour came back if the healed model shows it more often than the interval of the edited
    one allows; None if no answer of one of them was judged.
    """
    base, edited, healed = (measures[name] for name in MODELS)
    allowed = None if edited.refusal.ci is None else edited.refusal.ci[1]
    rate = None if edited.refusal.rate is None else healed.refusal.rate
    return HealingOutcome(
        recovered={
            name: _recovered(*(getattr(model, name) for model in (base, edited, healed))) for name in HEALED
        },
        came_back=None if rate is None or allowed is None else rate > allowed,
        allowed=allowed,
        paired=PairedTest.from_json(mcnemar(edited.refused, healed.refused)),
    )


def _recovered(base: Number | None, edited: Number | None, healed: Number | None) -> Number | None:
    if base is None or edited is None or healed is None:
        return None
    damage = edited - base
    return (edited - healed) / damage if damage > 0 else None


def describe_outcome(behaviour: str, measures: Mapping[str, HealedNumbers], outcome: HealingOutcome) -> str:
    """In words, for a person who reads nothing else."""
    before, edited, healed = (measures[name] for name in MODELS)
    refusal = behaviour == "refusal"
    noun = (
        "Refusals of harmful prompts" if refusal else f"Answers that show '{behaviour}' on positive prompts"
    )
    changed = compare_rates(before.refusal, edited.refusal)
    told = describe_change(changed, noun, between="of the edit")
    count = f"After healing they are {healed.refusal.count} of {healed.refusal.total}"
    if outcome.came_back is None:
        verdict = "whether the behaviour came back is not known, for no answer was judged"
    elif not changed.falls:
        verdict = "the edit had not measurably lowered them, so nothing could come back"
    else:
        verdict = "it came back" if outcome.came_back else "it did not come back"
    if edited.refusal.ci:
        verdict = f"the edited model's interval is {interval(edited.refusal.ci)}: {verdict}"
    sentences = [told, f"{count}; {verdict}.", _describe_recovery(outcome.recovered)]
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


def _describe_recovery(shares: Mapping[str, Number | None]) -> str:
    labels = {"kl_per_token": "KL per token", "ce_own_answers": "cross-entropy of the base's answers"}
    parts = [
        f"{share:.0%} of the {label}" for name, label in labels.items() if (share := shares[name]) is not None
    ]
    if not parts:
        return "The edit had added no damage that was measured."
    return f"Healing took back {' and '.join(parts)} that the edit had added."
