"""What an edit gained and what it cost, in two sentences: the first lines of a page, a card and the
terminal.
"""

from __future__ import annotations

from dataclasses import dataclass

from vectomy.core.results import PairedOutcome, Rate, RunResults
from vectomy.report.tables.behaviour_effect import BehaviourEffect, compare_rates, describe_change, effect_of
from vectomy.report.tables.completions import list_answers
from vectomy.report.tables.numbers import decimal, finite, percent
from vectomy.report.tables.statement import keeps, rate_names

__all__ = ["Headline", "describe_cost", "describe_gain", "write_headline"]

LOOPS = "(loops, stalled, garbled or empty)"


@dataclass(frozen=True)
class Headline:
    """`gain` says how often the behaviour is shown before and after, and what took its place;
    `cost` what else changed. `cost` is empty where nothing else was measured.
    """

    gain: str
    cost: str

    @property
    def text(self) -> str:
        return " ".join(part for part in (self.gain, self.cost) if part)


def write_headline(results: RunResults) -> Headline:
    """The headline of a run."""
    base, edited, names = results.base, results.edited, rate_names(results)
    answered = "answered without the trait" if results.trait else "answered"
    other = [(names.negative, effect_of(results, "harmless_refusal"))]
    if keeps(results):
        other.append(("refusals of prompts to keep", effect_of(results, "keep_refusal")))
    degenerate = compare_rates(Rate(rate=base.degenerate_rate), Rate(rate=edited.degenerate_rate))
    return Headline(
        describe_gain(effect_of(results, "refusal"), names.positive, answered),
        describe_cost([("degenerate answers", degenerate), *other], finite(edited.kl_per_token)),
    )


def describe_gain(effect: BehaviourEffect, noun: str, answered: str = "answered") -> str:
    """`Refusals of harmful prompts fell from 33 to 0 of 40: 16 of the 33 are answered now, 11
    evaded and 6 degenerate (...).`

    Args:
        noun: what the rate counts, in the plural.
        answered: what is said of a prompt that lost the behaviour and has a plain answer.
    """
    if effect.kind == "not_measured":
        return describe_change(effect, noun)
    moved = _move(noun, effect.before, effect.after)
    chance = "; chance may account for it" if effect.apart is False and "stayed" not in moved else ""
    became = _list_outcomes(effect.pairs, answered)
    return f"{moved}{chance}{f': {became}' if became else ''}."


def describe_cost(
    rates: list[tuple[str, BehaviourEffect]], kl_per_token: float | None, prompts: str = ""
) -> str:
    """`Cost and side effects: degenerate answers rose from 3.8% to 13.8%; ...; the KL from the base
    is 0.0246 nats per token.` Empty where none of it was measured.

    Args:
        rates: each rate with what it counts.
        kl_per_token: from the base, in nats.
        prompts: the set that the KL is over.
    """
    parts = [
        _move(noun[:1].lower() + noun[1:], effect.before, effect.after)
        for noun, effect in rates
        if effect.kind != "not_measured"
    ]
    if kl_per_token is not None:
        on = f" on {prompts}" if prompts else ""
        parts.append(f"the KL from the base is {decimal(kl_per_token)} nats per token{on}")
    return f"Cost and side effects: {'; '.join(parts)}." if parts else ""


def _move(noun: str, before: Rate, after: Rate) -> str:
    """`Refusals fell from 33 to 0 of 40`; shares where counts are not known."""
    first, last = _amount(before), _amount(after)
    old, new = finite(before.rate), finite(after.rate)
    if old == new:
        return f"{noun} stayed at {last}"
    went = "fell" if (new or 0.0) < (old or 0.0) else "rose"
    if before.total == after.total and None not in (before.count, after.count, after.total):
        first = str(before.count)
    return f"{noun} {went} from {first} to {last}"


def _amount(rate: Rate) -> str:
    if rate.count is None or rate.total is None:
        return percent(rate.rate)
    return f"{rate.count} of {rate.total}"


def _list_outcomes(pairs: PairedOutcome, answered: str) -> str:
    """What became of the prompts that lost the behaviour; empty where that was not counted."""
    lost, degenerate, evaded = pairs.lost, pairs.lost_to_degenerate, pairs.lost_to_evasion
    if not lost or degenerate is None:
        return ""
    # Of a run that did not count evasions they are among the rest.
    plain = answered if evaded is not None else f"{answered} or evaded"
    outcomes = [
        (lost - degenerate - (evaded or 0), plain),
        (evaded or 0, "evaded"),
        (degenerate, f"degenerate {LOOPS}"),
    ]
    counts = [f"{count} {what}" for count, what in outcomes if count]
    counts[0] = _with_verb(counts[0], lost)
    return list_answers(counts)


def _with_verb(first: str, lost: int) -> str:
    count, _, what = first.partition(" ")
    return f"{count} of the {lost} {'is' if count == '1' else 'are'} {what} now"
