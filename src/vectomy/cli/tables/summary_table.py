"""The summary as a table in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from vectomy.cli.tables.cells import setting, shown
from vectomy.cli.terminal import open_console
from vectomy.core.json_value import JsonObject
from vectomy.core.results import (
    DirectionPlace,
    FormMetrics,
    Rate,
    RateName,
    RunResults,
    StrengthRange,
)
from vectomy.report import describe_results, write_headline

__all__ = ["print_summary"]

RATES: tuple[tuple[str, RateName], ...] = (
    ("refusals", "refusal"),
    ("harmless refusals", "harmless_refusal"),
    ("refusals to keep", "keep_refusal"),
)
NUMBERS = (
    ("degenerate answers", "degenerate_rate"),
    ("evasions", "evasion_rate"),
    ("KL first token, nats", "kl_first_token"),
    ("KL per token, nats", "kl_per_token"),
    ("CE of base's answers", "ce_own_answers"),
    ("share along direction", "max_projection"),
)

# Sentences with intervals and tests, of each prompt set.
COUNTS = ("refusals", "harmless", "kept")
HEADINGS = {
    "hooks": "edit as hooks",
    "lora": "edit as LoRA",
    "baked": "edit baked",
    "base_full": "base, full precision",
    "baked_full": "baked, full precision",
}

# A trait is shown by answers, whatever they refuse.
TRAIT_ROWS = {"refusal": "trait shown, in its context", "harmless_refusal": "trait shown, without it"}


def print_summary(summary: JsonObject, folder: str) -> None:
    """What was changed, by which direction, and every number for base, hooks and baked weights."""
    console = open_console()
    results = RunResults.from_json(summary)
    counts = results.contrast.counts
    sides = [counts[side] for side in ("positive", "negative", "keep") if side in counts]
    tested = [str(side["test"]) if "test" in side else "not recorded" for side in sides]
    table = Table(title=f"{results.behaviour} in {results.model}: before and after", title_justify="left")
    table.add_column("held-out prompts")
    forms: dict[str, FormMetrics] = {
        "base": results.base,
        **{form: results.forms[form] for form in HEADINGS if form in results.forms},
    }
    for form in forms:
        table.add_column(
            HEADINGS.get(form, form),
            justify="right",
        )
    named = TRAIT_ROWS if results.trait else {}
    for label, name in RATES:
        if name == "keep_refusal" and not any(metrics.has_preserve_set for metrics in forms.values()):
            continue
        table.add_row(named.get(name, label), *(_rate(metrics, name) for metrics in forms.values()))
    if any(metrics.refusal_without_thinking is not None for metrics in forms.values()):
        plain = [_write_rate(metrics.refusal_without_thinking or Rate()) for metrics in forms.values()]
        table.add_row("refusals without thinking", *plain)
    for label, key in NUMBERS:
        if key == "evasion_rate" and all(metrics.evasion_rate is None for metrics in forms.values()):
            continue
        table.add_row(label, *(_number(metrics, key) for metrics in forms.values()))
    console.print(table)
    described, headline = describe_results(results), write_headline(results)
    lines = [
        f"direction  {_direction(results)}, recipe {results.recipe} on {results.estimator}",
        (
            f"prompts    test {' + '.join(tested)}, none used in fit or choice; "
            f"{setting(results.settings, 'answer_tokens')} greedy tokens, judge {results.judge.name} "
            f"{results.judge.version or ''}".rstrip()
        ),
        *(f"note       {note}" for note in results.notes),
        f"counts     {' '.join(str(described[key]) for key in COUNTS if described[key])}",
        f"safety     {described['safety']}",
        f"written    {folder}: {', '.join(_written(results))}",
        f"result     {headline.gain}",
        *([f"cost       {headline.cost.removeprefix('Cost and side effects: ')}"] if headline.cost else []),
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _direction(results: RunResults) -> str:
    """Where the direction was read; of an edit with a strength for each writer, from where it came
    and how far it reaches.
    """
    chosen, spread = results.direction or DirectionPlace(), results.strength
    place = f"{chosen.site} of layer {chosen.layer}"
    if trait := results.trait:
        strength = "several" if isinstance(spread, StrengthRange) else shown(spread, "g")
        return f"{trait.form} at strength {strength} in {trait.writers} writers, contexts compared at {place}"
    if not isinstance(spread, StrengthRange):
        return f"{place}, token {chosen.token!r} (position {chosen.position})"
    came = f"mainly {place}, strengths by trials," if results.recipe == "tpe" else f"learned from {place},"
    return (
        f"{came} in {spread.writers} writers with strengths of "
        f"{shown(spread.lowest, '.2g')} to {shown(spread.highest, '.2g')}"
    )


def _written(results: RunResults) -> list[str]:
    return [
        Path(results.edit.path or "").name,
        *([Path(results.checkpoint).name] if results.checkpoint else []),
        "report.html",
        "summary.json",
        "MODEL_CARD.md",
    ]


def _rate(metrics: FormMetrics, name: RateName) -> str:
    return _write_rate(metrics.rate(name))


def _write_rate(rate: Rate) -> str:
    if rate.ci is None:
        return "–"
    low, high = rate.ci
    shown = f"{rate.count}/{rate.total} ({low * 100:.0f}–{high:.0%})" if rate.total else "–"
    return f"{shown}\n{rate.not_judged} not judged" if rate.not_judged else shown


def _number(metrics: FormMetrics, key: str) -> str:
    value = getattr(metrics, key)
    return shown(value, ".1%" if key.endswith("_rate") else ".3f")
