"""The summary as a table in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["print_summary"]

ROWS = (
    ("refusals", "refusal"),
    ("harmless refusals", "harmless_refusal"),
    ("refusals to keep", "keep_refusal"),
    ("degenerate answers", "degenerate_rate"),
    ("KL first token, nats", "kl_first_token"),
    ("KL per token, nats", "kl_per_token"),
    ("CE of base's answers", "ce_own_answers"),
    ("most of direction left", "max_projection"),
)

# A trait is shown by answers, whatever they refuse.
TRAIT_ROWS = {"refusal": "trait shown, in its context", "harmless_refusal": "trait shown, without it"}


def print_summary(summary: dict[str, Any], folder: str) -> None:
    """What was changed, by which direction, and every number for base, hooks and baked weights."""
    console = Console()
    counts = summary["contrast"]["counts"]
    tested = [counts[side]["test"] for side in ("positive", "negative", "keep") if side in counts]
    table = Table(
        title=f"{summary['behaviour']} in {summary['model']}: before and after", title_justify="left"
    )
    table.add_column("held-out prompts")
    forms = {
        "base": summary["base"],
        **{form: summary["forms"][form] for form in ("hooks", "lora", "baked") if form in summary["forms"]},
    }
    for form in forms:
        table.add_column(
            {"hooks": "edit as hooks", "lora": "edit as LoRA", "baked": "edit baked"}.get(form, form),
            justify="right",
        )
    named = TRAIT_ROWS if summary.get("trait") else {}
    for label, key in ROWS:
        if key == "keep_refusal" and not any(f"{key}_rate" in metrics for metrics in forms.values()):
            continue
        table.add_row(named.get(key, label), *(_cell(metrics, key) for metrics in forms.values()))
    console.print(table)
    lines = [
        f"direction  {_direction(summary)}, recipe {summary['recipe']} on {summary['estimator']}",
        (
            f"prompts    test {' + '.join(str(count) for count in tested)}, none of them fitted or chosen on; "
            f"{summary['settings']['answer_tokens']} greedy tokens, judge {summary['judge']['name']} {summary['judge']['version'] or ''}".rstrip()
        ),
        *(f"note       {note}" for note in summary["notes"]),
        f"safety     {summary['safety']}",
        f"written    {folder}: {', '.join(_written(summary))}",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _direction(summary: dict[str, Any]) -> str:
    """Where the direction was read; of an edit with a strength for each writer, from where it came
    and how far it reaches.
    """
    chosen, spread = summary["direction"], summary["strength"]
    place = f"{chosen['site']} of layer {chosen['layer']}"
    if trait := summary.get("trait"):
        return f"{trait['form']} at strength {spread:g} in {trait['writers']} writers, contexts compared at {place}"
    if not isinstance(spread, dict):
        return f"{place}, token {chosen['token']!r} (position {chosen['position']})"
    came = f"mainly {place}, strengths by trials," if summary["recipe"] == "tpe" else f"learned from {place},"
    return f"{came} in {spread['writers']} writers with strengths of {spread['lowest']:.2g} to {spread['highest']:.2g}"


def _written(summary: dict[str, Any]) -> list[str]:
    return [
        Path(summary["edit"]["path"]).name,
        *([Path(summary["checkpoint"]).name] if summary["checkpoint"] else []),
        "report.html",
        "summary.json",
        "MODEL_CARD.md",
    ]


def _cell(metrics: dict[str, Any], key: str) -> str:
    if f"{key}_ci" in metrics:
        low, high = metrics[f"{key}_ci"]
        return f"{metrics[f'{key}_count']}/{metrics[f'{key}_total']} ({low * 100:.0f}–{high:.0%})"
    value = metrics.get(key)
    if value is None:
        return "–"
    return f"{value:.1%}" if key.endswith("_rate") else f"{value:.3f}"
