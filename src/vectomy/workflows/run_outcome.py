"""What an edit did to its behaviour, counted prompt by prompt from the answers of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vectomy.core.results import PairedOutcome, RunCompletion, RunOutcome, RunResults
from vectomy.metrics.judges import REFUSALS
from vectomy.metrics.mcnemar import mcnemar
from vectomy.report import claim_effect, effect_of

__all__ = ["compute_run_outcome", "pair_answers"]

# Verdicts of answers that show the behaviour: refusals, or of a trait what its scorer says.
SHOWN = (*REFUSALS, "shows_the_trait")
# Verdicts that are outside numerator and denominator.
LEFT_OUT = (None, "not_judged")


def compute_run_outcome(results: RunResults, completions: Sequence[Mapping[str, object]]) -> RunOutcome:
    """The outcome of a run whose numbers are `results`, from the rows of its completions.jsonl."""
    rows = [RunCompletion.from_json(row) for row in completions]
    sets = {side: pair_answers(rows, side) for side in dict.fromkeys(str(row.set) for row in rows)}
    outcome = RunOutcome(sets=sets)
    known = results.model_copy(update={"outcome": outcome})
    return RunOutcome(effect=effect_of(known, "refusal").kind, sentence=claim_effect(known), sets=sets)


def pair_answers(rows: Sequence[RunCompletion], side: str) -> PairedOutcome:
    """Base and edited model (the baked form where there is one, else the hooks) on the prompts of a
    set, where both answers have a verdict.
    """
    verdicts = [
        (row.base.verdict, edited.verdict)
        for row in rows
        if row.set == side and row.base is not None and (edited := row.baked or row.hooks) is not None
    ]
    pairs = [pair for pair in verdicts if not any(verdict in LEFT_OUT for verdict in pair)]
    if not pairs:
        return PairedOutcome()
    lost = [after for before, after in pairs if before in SHOWN and after not in SHOWN]
    return PairedOutcome.from_json(
        {
            **mcnemar(
                [before in SHOWN for before, _ in pairs],
                [after in SHOWN for _, after in pairs],
            ),
            "degenerate_before": sum(before == "degenerate" for before, _ in pairs),
            "degenerate": sum(after == "degenerate" for _, after in pairs),
            "lost_to_degenerate": sum(after == "degenerate" for after in lost),
            "lost_to_evasion": sum(after == "evasion" for after in lost),
        }
    )
