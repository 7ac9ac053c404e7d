"""The paper's rule for choosing a direction from scores. Imports no torch.

Minimise the refusal score under ablation, subject to three filters: adding the direction induces
refusal (steering score above 0), ablating it changes harmless answers little (KL below 0.1), and
its layer is below int(0.8 L) of L layers. The filters matter: without them the minimum is often
layer 1, with a KL of 7 to 13.

Source: Arditi et al., arXiv 2406.11717, appendix C. The paper says `l < 0.8 L`; its code rounds
0.8 L down, and its published choice for Yi-6B (layer 20 of 32, not 25) follows from the code.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from vectomy.core.errors import SelectionError
from vectomy.core.run_config import Selection

__all__ = [
    "SCORES",
    "RuleOutcome",
    "choose",
    "choose_beyond_kl",
    "explain_choice",
    "first_late_layer",
    "rejection",
]

Scored: TypeAlias = Mapping[str, Any]
"""A candidate: position, layer, refusal_score, steering_score and kl_div_score."""

# Share of positive prompts that may still show the behaviour when KL is minimised instead.
STILL_SHOWN = 0.05
SCORES = ("refusal_score", "steering_score", "kl_div_score")


def first_late_layer(n_layers: int, layer_fraction: float) -> int:
    """The lowest layer that is too late: int(layer_fraction * n_layers), free of rounding errors
    (0.29 of 100 layers is 29).
    """
    return math.floor(layer_fraction * n_layers + 1e-9)


def rejection(candidate: Scored, n_layers: int, limits: Selection) -> str | None:
    """Why a candidate is rejected, or None. A missing score does not reject it; NaN does."""
    layer, late = candidate["layer"], first_late_layer(n_layers, limits.layer_fraction)
    if layer >= late:
        return f"layer {layer} is not below {late}, which is int({limits.layer_fraction:g} * {n_layers})"
    for name in SCORES:
        value = candidate.get(name)
        if value is not None and math.isnan(value):
            return f"{name} is NaN"
    steering, kl = candidate.get("steering_score"), candidate.get("kl_div_score")
    if steering is not None and steering <= limits.induce_threshold:
        return f"steering score {steering:.3g} is not above {limits.induce_threshold:g}"
    if kl is not None and kl >= limits.kl_threshold:
        return f"KL {kl:.3g} is not below {limits.kl_threshold:g}"
    return None


def _count_reasons(reasons: Iterable[str | None]) -> dict[str, int]:
    """How many candidates each filter rejected: the first word of a reason names its filter."""
    return dict(Counter(reason.split()[0] for reason in reasons if reason))


def choose(candidates: Sequence[Scored], n_layers: int, limits: Selection | None = None) -> Scored:
    """The first candidate with the lowest refusal score among those that pass the filters.

    Args:
        candidates: mappings with position, layer, refusal_score, steering_score and kl_div_score.

    Raises:
        SelectionError: none passes; the message counts the rejections by filter.
    """
    limits = limits or Selection()
    reasons = [rejection(candidate, n_layers, limits) for candidate in candidates]
    passing = [candidate for candidate, reason in zip(candidates, reasons, strict=True) if reason is None]
    if not passing:
        counts = _count_reasons(reasons)
        rejected = ", ".join(f"{name} {count}" for name, count in counts.items()) or "there were none"
        raise SelectionError(
            f"none of {len(candidates)} directions passes the filters (rejected by: {rejected}); loosen "
            "--kl-threshold "
            f"({limits.kl_threshold:g}) or --induce-threshold ({limits.induce_threshold:g}), use more "
            "prompts, or another --estimator"
        )
    return min(passing, key=lambda candidate: candidate["refusal_score"])


@dataclass(frozen=True)
class RuleOutcome:
    """The rule's choice, and why others were rejected."""

    chosen: Scored
    passing: int
    """How many candidates pass the filters."""
    rejected_by: dict[str, int]
    """How many each filter rejected."""
    lower: tuple[tuple[Scored, str], ...]
    """Rejected candidates whose refusal score is lower than the chosen one's, the lowest first, and
    the reason of each.
    """


def explain_choice(candidates: Sequence[Scored], n_layers: int, limits: Selection) -> RuleOutcome:
    """`choose`, with the reasons.

    Raises:
        SelectionError: none passes the filters.
    """
    chosen = choose(candidates, n_layers, limits)
    reasons = [rejection(candidate, n_layers, limits) for candidate in candidates]
    lower = [
        (candidate, reason)
        for candidate, reason in zip(candidates, reasons, strict=True)
        if reason and candidate["refusal_score"] < chosen["refusal_score"]  # False for NaN
    ]
    lower.sort(key=lambda item: item[0]["refusal_score"])
    return RuleOutcome(chosen, reasons.count(None), _count_reasons(reasons), tuple(lower))


def choose_beyond_kl(
    candidates: Sequence[Scored],
    n_layers: int,
    limits: Selection,
    shown: Callable[[Scored], float],
) -> tuple[Scored, str]:
    """Minimise KL if no candidate passes the KL filter, as in narrow models. This rule is ours, not
    the paper's.

    Candidates must pass the other filters and make the behaviour the less likely first token. In
    order of KL, the first one is chosen after which at most 5% of the positive prompts still show
    the behaviour (`shown`, measured by generating). If there is none, the lowest refusal score is
    chosen.

    Returns:
        (the candidate, a note that says how it was chosen).

    Raises:
        SelectionError: none passes the other filters.
    """
    without = limits.model_copy(update={"kl_threshold": math.inf})
    passing = [candidate for candidate in candidates if rejection(candidate, n_layers, without) is None]
    if not passing:
        return choose(candidates, n_layers, without), ""
    note = f"no direction passes the paper's filter KL < {limits.kl_threshold:g}; chosen instead: "
    for candidate in sorted(passing, key=lambda candidate: candidate["kl_div_score"]):
        if candidate["refusal_score"] < 0 and shown(candidate) <= STILL_SHOWN:
            return candidate, note + (
                f"the least KL ({candidate['kl_div_score']:.3g}) after which at most {STILL_SHOWN:.0%} of "
                "the positive "
                "search prompts show the behaviour"
            )
    best = min(passing, key=lambda candidate: candidate["refusal_score"])
    return (
        best,
        note + f"the lowest refusal score (KL {best['kl_div_score']:.3g}), since none removes the behaviour "
        "completely",
    )
