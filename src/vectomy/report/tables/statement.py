"""What page and card both say: the measured rows, and where each prompt set came from."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from vectomy.core.results import FormMetrics, Rate, RateName, RunResults
from vectomy.report.tables.behaviour_effect import (
    claim_effect,
    describe_change,
    effect_of,
    name_prompts,
    name_sides,
    safety_text,
)
from vectomy.report.tables.numbers import decimal, finite, interval, percent

__all__ = [
    "KEEP",
    "Cell",
    "RateNames",
    "Row",
    "describe_results",
    "forms",
    "keeps",
    "rate_cell",
    "rate_names",
    "rows",
    "sources",
    "token_text",
    "verb",
]

SPLITS = ("fit", "search", "test")
KEEP: RateName = "keep_refusal"


@dataclass(frozen=True)
class Cell:
    """One measured value: `value` as the JSON has it, `text` as shown, `detail` its count and
    interval, `mark` its class.
    """

    value: float | None
    text: str
    detail: tuple[str, ...] = ()
    mark: str = ""


@dataclass(frozen=True)
class Row:
    key: str
    label: str
    hint: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class RateNames:
    """What the rates of a summary count, by set, in the plural."""

    noun: str
    positive: str
    negative: str


def rate_names(summary: RunResults) -> RateNames:
    """Refusals, or of a trait the answers that show it in the context of each side."""
    if summary.trait:
        shown = "Answers that show the trait"
        return RateNames(
            "answers that show the trait", f"{shown} in its context", f"{shown} without its context"
        )
    positive, negative = name_prompts(summary, "refusal"), name_prompts(summary, "harmless_refusal")
    return RateNames("answers that refuse", f"Refusals of {positive}", f"Refusals of {negative}")


def describe_results(summary: RunResults) -> dict[str, object]:
    """The sentences of a run by the names that the templates of page and card give them."""
    names = rate_names(summary)
    prompts = {
        "positive": name_prompts(summary, "refusal"),
        "negative": name_prompts(summary, "harmless_refusal"),
    }
    kept = effect_of(summary, KEEP) if keeps(summary) else None
    return {
        "prompts": prompts,
        "sides": name_sides(summary),
        "effect": effect_of(summary, "refusal"),
        "claim": claim_effect(summary),
        "refusals": describe_change(effect_of(summary, "refusal"), names.positive),
        "harmless": describe_change(effect_of(summary, "harmless_refusal"), names.negative),
        "kept": describe_change(kept, "Refusals of prompts to keep") if kept else None,
        "safety": safety_text(summary),
    }


def forms(summary: RunResults) -> dict[str, FormMetrics]:
    """The metrics by form, the base first; `edited` stands in where a summary has no forms."""
    measured = {name: values for name, values in summary.forms.items() if values.model_fields_set}
    if not measured and summary.edited.model_fields_set:
        measured = {"edited": summary.edited}
    order = ("hooks", "lora", "baked")
    known = {name: measured[name] for name in order if name in measured}
    return {
        "base": summary.base,
        **known,
        **{k: v for k, v in measured.items() if k not in order},
    }


def rows(summary: RunResults) -> list[Row]:
    """The summary table: one row per metric, one cell per form."""
    measured = forms(summary).values()
    names = rate_names(summary)
    negative = name_prompts(summary, "harmless_refusal")
    test = {side: summary.contrast.source(side, "test") for side in ("positive", "negative")}
    return [
        Row(
            "refusal",
            names.positive,
            test["positive"],
            tuple(rate_cell(m.rate("refusal")) for m in measured),
        ),
        Row(
            "harmless_refusal",
            names.negative,
            test["negative"],
            tuple(rate_cell(m.rate("harmless_refusal")) for m in measured),
        ),
        *_kept(summary),
        Row(
            "degenerate_rate",
            "Degenerate answers",
            "repeating, stalled or empty",
            tuple(Cell(finite(m.degenerate_rate), percent(m.degenerate_rate)) for m in measured),
        ),
        *_evasions(measured, test["positive"]),
        *_without_thinking(measured, test["positive"]),
        *(
            Row(
                key,
                label,
                hint,
                tuple(Cell(finite(getattr(m, key)), decimal(getattr(m, key))) for m in measured),
            )
            for key, label, hint in (
                ("kl_first_token", "KL from the base, first token", f"nats, {negative}"),
                ("kl_per_token", "KL from the base, per token", "nats per token, over the base's answers"),
                ("ce_own_answers", "Cross-entropy of the base's answers", f"nats per token, {negative}"),
                (
                    "max_projection",
                    "Largest share of the stream along the direction",
                    "of its norm, any layer and token; 0 only where every writer is edited at strength 1",
                ),
            )
        ),
    ]


def keeps(summary: RunResults) -> bool:
    """Whether there are prompts that are to show the behaviour still."""
    return any(metrics.has_preserve_set for metrics in forms(summary).values())


def _kept(summary: RunResults) -> list[Row]:
    if not keeps(summary):
        return []
    cells = tuple(rate_cell(metrics.rate(KEEP)) for metrics in forms(summary).values())
    return [Row(KEEP, "Refusals, prompts to keep", summary.contrast.source("keep", "test"), cells)]


def _evasions(measured: Collection[FormMetrics], prompts: str) -> list[Row]:
    """The share of evasions; no row for runs whose judge knew none."""
    if all(metrics.evasion_rate is None for metrics in measured):
        return []
    cells = tuple(Cell(finite(m.evasion_rate), percent(m.evasion_rate)) for m in measured)
    return [Row("evasion_rate", "Evasions", prompts, cells)]


def _without_thinking(measured: Collection[FormMetrics], prompts: str) -> list[Row]:
    """Refusals of a model that thinks, where it answers without; no row for other models."""
    if all(metrics.refusal_without_thinking is None for metrics in measured):
        return []
    cells = tuple(rate_cell(metrics.refusal_without_thinking) for metrics in measured)
    return [Row("refusal_without_thinking", "Refusals without thinking", prompts, cells)]


def rate_cell(measured: Rate | None) -> Cell:
    """A rate with its count, interval and minimum detectable effect below it, as far as they are
    known.
    """
    measured = measured or Rate()
    rate, count, total = finite(measured.rate), measured.count, measured.total
    effect = finite(measured.minimum_detectable_effect)
    unjudged = f"{measured.not_judged} not judged" if measured.not_judged else ""
    if unjudged and not total:
        return Cell(None, "–", (unjudged,))
    detail = (
        f"{count} of {total}" if count is not None and total is not None else "",
        interval(measured.ci),
        "" if effect is None else f"shows {100 * effect:.0f} points",
        unjudged,
    )
    return Cell(rate, percent(rate), tuple(text for text in detail if text))


def verb(strength: object) -> str:
    """What an edit of this strength does to a direction: 1 removes it, between 0 and 1 weakens it,
    and so on.
    """
    value = finite(strength)
    if value is None:
        return "edits"
    if value == 1:
        return "removes"
    if value > 1:
        return "removes and reverses"
    return "weakens" if value > 0 else "amplifies" if value < 0 else "leaves unchanged"


def token_text(token: object) -> str:
    """A token with its white space visible: a line break is `\\n`, a blank `␣`."""
    return json.dumps(str(token), ensure_ascii=False)[1:-1].replace('\\"', '"').replace(" ", "␣")


def sources(summary: RunResults) -> list[tuple[str, str, str, int | None]]:
    """Each prompt set as (side, split, source, prompts used)."""
    contrast = summary.contrast
    sides = ("positive", "negative", *(["keep"] if contrast.keep else []))
    return [
        (side, split, contrast.source(side, split), contrast.counts.get(side, {}).get(split))
        for side in sides
        for split in SPLITS
    ]
