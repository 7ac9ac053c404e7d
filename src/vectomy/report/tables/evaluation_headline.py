"""The headline of an evaluation: what the subject that is spoken of first gained over the base, and
what it cost.
"""

from __future__ import annotations

from vectomy.core.results import EvaluationResults, PairedOutcome
from vectomy.report.tables.behaviour_effect import BehaviourEffect, compare_rates
from vectomy.report.tables.headline import Headline, describe_cost, describe_gain
from vectomy.report.tables.numbers import finite
from vectomy.report.tables.subject_parts import (
    Part,
    SubjectResult,
    base_subject,
    damage_set,
    focus,
    main_part,
    over_refusal,
    subjects,
)

__all__ = ["compare_subjects", "write_evaluation_headline"]


def compare_subjects(part: Part, base: SubjectResult, subject: SubjectResult) -> BehaviourEffect:
    """How refusals of the part differ between the base and the subject."""
    pairs = PairedOutcome()
    before, after = base.on(part.set), subject.on(part.set)
    if part.label is None:
        # Paired tests and degenerate answers are counted over whole sets.
        tested = after.against_base if subject.row.of in (None, base.name) else None
        pairs = PairedOutcome.from_json(
            {
                **(tested.to_json() if tested else {}),
                "degenerate_before": before.degenerate.count,
                "degenerate": after.degenerate.count,
            }
        )
    return compare_rates(part.refusal(base), part.refusal(subject), pairs)


def write_evaluation_headline(evaluation: EvaluationResults) -> Headline | None:
    """Refusals on the main prompts, degenerate answers on their set, over-refusal and KL; None
    where nothing was compared with the base.
    """
    main, base, shown = main_part(evaluation), base_subject(evaluation), focus(subjects(evaluation))
    if main is None or base is None or shown is None:
        return None
    degenerate = compare_rates(base.on(main.set).degenerate, shown.on(main.set).degenerate)
    rates = [(f"degenerate answers on {main.set}", degenerate)]
    labelled = over_refusal(evaluation)
    if labelled and labelled[0] != main:
        safe = labelled[0]
        rates.append((f"refusals of safe prompts ({safe.set})", compare_subjects(safe, base, shown)))
    damage = damage_set(evaluation)
    return Headline(
        describe_gain(
            compare_subjects(main, base, shown),
            f"From {base.name} to {shown.name}, refusals on {main.name}",
        ),
        describe_cost(rates, finite(shown.on(damage).kl_per_token) if damage else None, damage or ""),
    )
