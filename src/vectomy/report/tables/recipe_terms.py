"""What differs from recipe to recipe: the scores of its candidates, what its edit does in words,
and the rule it chose by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vectomy.core.results import JsonObject, RunResults, RunTrait, SearchResults, StrengthRange
from vectomy.report.charts.heatmap import Score
from vectomy.report.tables.behaviour_effect import SIDES
from vectomy.report.tables.numbers import decimal, finite, plain
from vectomy.report.tables.statement import verb

__all__ = ["SCORES", "kl_name", "origin", "rule", "scores_of", "several", "strength", "what"]

KL = Score(
    "kl_div_score",
    "KL divergence",
    "direction ablated, {negative} prompts, nats; lower is better",
    True,
    True,
)
SCORES = {
    "arditi": (
        Score(
            "refusal_score", "refusal score", "direction ablated, {positive} prompts; lower is better", True
        ),
        Score(
            "steering_score", "steering score", "direction added, {negative} prompts; higher is better", False
        ),
        KL,
    ),
    "article": (
        Score("score", "score", "absolute mean of the direction's components; higher ranks first", False),
    ),
    "cosmic": (
        Score("score", "score", "cosines of the activations, added and ablated; higher is better", False),
    ),
}
# Shown in the table of candidates alone.
MORE = {
    "cosmic": (
        Score(
            "induced", "induced", "direction added to {negative} prompts, cosine with {positive} ones", False
        ),
        Score(
            "removed",
            "removed",
            "direction ablated on {positive} prompts, cosine with {negative} ones",
            False,
        ),
        KL,
    )
}
LEARNED = ("gradient", "selective")


def scores_of(
    recipe: object, names: Mapping[str, str] = SIDES
) -> tuple[tuple[Score, ...], tuple[Score, ...]]:
    """The scores that are drawn, and those of the table of candidates, with the names of the prompt
    sets in their notes.
    """
    name = str(recipe) if recipe in SCORES else "arditi"
    drawn = tuple(replace(score, note=score.note.format(**names)) for score in SCORES[name])
    more = tuple(replace(score, note=score.note.format(**names)) for score in MORE.get(name, ()))
    return drawn, drawn + more


def several(summary: RunResults) -> bool:
    """Whether the edit is of a recipe that gives each writer a strength of its own."""
    if summary.trait:
        return True
    return isinstance(summary.strength, StrengthRange) or summary.recipe in (*LEARNED, "tpe")


def what(summary: RunResults) -> str:
    """What the edit does to the stream: `removes one direction of the residual stream`."""
    if summary.trait:
        return _trait_edit(summary.trait, summary.strength)
    if not several(summary):
        return f"{verb(summary.strength)} one direction of the residual stream"
    spread = _spread(summary)
    low, high = finite(spread.lowest), finite(spread.highest)
    does = "changes" if low is None or high is None or low < 0 or high > 1 else "weakens"
    count, writers = finite(spread.directions) or 1, spread.writers
    learned = "" if summary.recipe == "tpe" else "learned "
    direction = f"{'one' if spread.shared else 'a'} {learned}direction"
    directions = direction if count == 1 else f"{plain(count)} {learned}directions"
    where = "of the residual stream" if spread.shared else "of the residual stream for each layer"
    place = "its writers" if writers is None else f"{writers} writer{'' if writers == 1 else 's'}"
    text = f"{does} {directions} {where} in {place}"
    if low is None or high is None:
        return f"{text}, each by a strength of its own"
    if low == high:
        return f"{text}, with strength {decimal(low, 2)}"
    meanings = {"1 removes": high > 0, "above 1 reverses": high > 1, "below 0 amplifies": low < 0}
    scale = ", ".join(words for words, applies in meanings.items() if applies)
    return f"{text}, each by a strength of its own from {decimal(low, 2)} to {decimal(high, 2)} ({scale})"


def _trait_edit(trait: RunTrait, strength: object) -> str:
    """What an edit of recipe `distill` is made for: `is made to induce melancholy by learned
    vectors in 12 writers`. Whether it does is a matter of the rates.
    """
    purpose = "induce" if trait.operation == "induce" else "remove"
    means = {
        "learned": "learned vectors" if purpose == "induce" else "learned directions and vectors",
        "bias": "a vector that is added",
        "set-point": "a direction that is set to one value",
        "amplify": "a direction that is scaled",
    }
    writers = trait.writers
    where = f" in {writers} writer{'' if writers == 1 else 's'}" if writers else ""
    how = means.get(str(trait.form), "an edit")
    return f"is made to {purpose} {trait.name} by {how}{where}, at strength {plain(strength)}"


def strength(summary: RunResults) -> str:
    """The strength as a fact: one number, or the range over the writers."""
    spread = _spread(summary)
    low, high = finite(spread.lowest), finite(spread.highest)
    if isinstance(summary.strength, StrengthRange) and low is not None and high is not None:
        return f"{decimal(low, 2)} to {decimal(high, 2)}, by writer"
    return plain(summary.strength)


def _spread(summary: RunResults) -> StrengthRange:
    strength = summary.strength
    return (
        strength if isinstance(strength, StrengthRange) else StrengthRange(lowest=strength, highest=strength)
    )


def origin(summary: RunResults) -> str:
    """How the direction came to be, in front of the place in the stream that it is named by."""
    if summary.trait:
        return "The two contexts are compared at"
    if not several(summary):
        return "The direction was read at"
    if summary.recipe == "tpe":
        return (
            "The directions are closed-form, trials found the strengths; the strongest direction was read at"
        )
    return "It was learned from the direction at"


def kl_name(recipe: object) -> str:
    """Which KL the points of a frontier have, in nats."""
    return "KL of the first token" if recipe == "tpe" else "KL per token"


def rule(scores: SearchResults, settings: JsonObject, names: Mapping[str, str] = SIDES) -> str:
    """The rule by which an edit of the frontier was chosen."""
    budget, target = finite(settings.get("kl_budget")), finite(settings.get("target_rate"))
    kl = kl_name(scores.recipe)
    if scores.recipe == "distill":
        return _strength_rule(scores, budget, target)
    if budget is not None:
        limit = f"{kl} is at most {plain(budget)} nats"
        text = f"Of the edits whose {limit}, the one that leaves least of the behaviour is chosen"
    else:
        most = "few enough" if target is None else f"at most {100 * target:.3g}%"
        text = (
            f"Of the edits that leave the behaviour on {most} of the {names['positive']} search prompts, "
            f"the one with the smallest {kl} is chosen"
        )
    if (most_degenerate := finite(settings.get("max_degenerate"))) is not None:
        text += (
            f"; an edit with more than {100 * most_degenerate:.3g}% degenerate answers beyond the base's is "
            "chosen only if there is no other"
        )
    if any("held" in candidate.model_fields_set for candidate in scores.candidates):
        text += (
            "; an edit that loses too much of it on the prompts to keep is chosen only if there is no other"
        )
    return text + "."


def _strength_rule(scores: SearchResults, budget: float | None, target: float | None) -> str:
    """How the strength of a trait's edit was chosen."""
    side = "at least" if scores.operation == "induce" else "at most"
    share = "enough" if target is None else f"{side} {100 * target:.3g}%"
    limit = "" if budget is None else f" and a KL per token of at most {plain(budget)} nats"
    return (
        f"Of the edits with few degenerate answers{limit} that show the trait in {share} of the search "
        "answers, the one with the smallest KL is chosen."
    )
