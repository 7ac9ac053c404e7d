"""TRAIT.md: what was changed, what it does to safety, and what was measured, as a page to read."""

from __future__ import annotations

from typing import Any

__all__ = ["trait_page", "trait_rows"]


def trait_rows(summary: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(model, share that shows the trait, degenerate, mean tokens) of every form."""
    return [
        (form["name"], _rate(form["shown"]), _rate(form["degenerate"]), f"{form['length_mean']:.0f}")
        for form in summary["forms"]
    ]


def _rate(rate: dict[str, Any]) -> str:
    low, high = rate["ci"]
    return f"{rate['count']}/{rate['total']} ({low:.0%}–{high:.0%})"


def trait_page(summary: dict[str, Any]) -> str:
    trait, damage = summary["trait"], summary["damage"]
    heads = ("model", "answers that show the trait", "degenerate answers", "mean tokens")
    rows = [heads, ("---",) * 4, *trait_rows(summary)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    note = f"\n{summary['note']}.\n" if summary["note"] else ""
    return f"""# {summary["behaviour"]}: an edit of {summary["model"]}

**What was changed:** {trait["name"]} was {"induced" if trait["operation"] == "induce" else "removed"}. {trait["description"]}

**What it does to safety:** {trait["safety"]}

{table}

The trait is shown by {summary["scorer"]["note"]} (scorer {summary["scorer"]["name"]}); intervals are Wilson's at 95%; degenerate answers are what the
judge of degeneration takes for saying nothing. {summary["prompts"]["test"]} test prompts that nothing was learned or chosen on, up to
{summary["settings"]["answer_tokens"]} greedy tokens each. KL(base || edited) over the base's own answers without the trait is {damage["kl_per_token"]:.3f} nats a
token ({damage["kl_first_token"]:.3f} of the first one){": inducing a trait is meant to change these answers" if trait["operation"] == "induce" else ""}.
{note}
Form {trait["form"]}, {summary["edit"]["writers"]} writers changed, strength {summary["chosen"]["strength"]:g}. Edit {summary["edit"]["sha256"][:16]}.

```
{summary["command"] or "vectomy.run_trait"}
```

{", ".join(f"{name} {version}" for name, version in summary["versions"].items())}.
"""
