"""An evaluation as tables in the terminal, narrow enough for 80 columns; evaluation.json has the
rest.
"""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["print_comparison"]


def print_comparison(found: dict[str, Any], folder: str) -> None:
    """A table for each set with a row for each subject, one for what is measured beside the sets,
    one for the tasks, and how to read them.
    """
    console = Console()
    for one in found["sets"]:
        console.print(_on_set(found, one))
    tables = [table for table in (_beside(found), _tasks(found)) if table is not None]
    for table in tables:
        console.print(table)
    settings, judge = found["settings"], found["judge"]
    lines = [
        f"base     {found['base']}; lost: it refuses, the subject no longer; gained: the reverse; p: McNemar's exact test",
        f"damage   KL(base || subject) and CE in nats a token, over the base's answers to {settings['damage_prompts']} prompts of a set",
        f"judge    {judge['name']} {judge['version']}: {judge['note']}",
        f"answers  {settings['answer_tokens']} greedy tokens, {settings['dtype']} on {settings['device']}; rates with 95% intervals",
        *(
            f"tasks    lm-eval {version}; scores and paired differences from what a subject is compared with, ± standard errors"
            for version in [found["versions"].get("lm_eval")]
            if version
        ),
        *(
            f"note     {subject['name']}: {subject['note']}"
            for subject in found["subjects"]
            if subject["note"]
        ),
        f"written  {folder}: evaluation.json, completions.jsonl",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _on_set(found: dict[str, Any], one: dict[str, Any]) -> Table:
    labels = list(dict.fromkeys(kind["label"] for kind in one["types"] if kind["label"] is not None))
    table = _table(f"{one['name']}: {one['count']} prompts")
    for head in ("refusals", *labels, "degen.", "lost", "gained", "p", "KL", "CE"):
        table.add_column(head, justify="right", no_wrap=True)
    for subject in found["subjects"]:
        numbers = found["results"][subject["name"]]["sets"][one["name"]]
        paired = numbers.get("against_base")
        table.add_row(
            subject["name"],
            _rate(numbers["refusal"]),
            *(_share(numbers["by_label"].get(label, {}).get("refusal")) for label in labels),
            _share(numbers["degenerate"]),
            *(
                ("", "", "")
                if paired is None
                else (str(paired["lost"]), str(paired["gained"]), f"{paired['p']:.1g}")
            ),
            *(_decimal(numbers.get(key)) for key in ("kl_per_token", "ce_own_answers")),
        )
    return table


def _beside(found: dict[str, Any]) -> Table | None:
    """What is measured once a subject; None where nothing is."""
    columns: dict[str, dict[str, str]] = {}
    for name, results in found["results"].items():
        for text, numbers in results.get("perplexity", {}).items():
            columns.setdefault(f"perplexity {text}", {})[name] = f"{numbers['perplexity']:.2f}"
        if "multi_turn" in results:
            columns.setdefault("2nd turns refused", {})[name] = _rate(results["multi_turn"]["refusal"])
        if "long_context" in results:
            columns.setdefault("long contexts answered", {})[name] = _rate(
                results["long_context"]["answered"]
            )
        if "tool_calls" in results:
            columns.setdefault("valid tool calls", {})[name] = _rate(results["tool_calls"]["valid"])
    if not columns:
        return None
    table = _table("beside the sets")
    for head in columns:
        table.add_column(head, justify="right")
    for subject in found["subjects"]:
        cells = [column.get(subject["name"], "") for column in columns.values()]
        if any(cells):
            table.add_row(subject["name"], *cells)
    return table


def _tasks(found: dict[str, Any]) -> Table | None:
    """A row for each task and subject, the subjects of a task below each other; None where no task
    was run.
    """
    results = {name: held["capability"] for name, held in found["results"].items() if held.get("capability")}
    if not results:
        return None
    table = _table("tasks")
    for head in ("metric", "score", "difference", "n"):
        table.add_column(head, justify="right", no_wrap=True)
    for task in next(iter(results.values())):
        table.add_section()
        table.add_row(f"[bold]{escape(task)}[/]")
        for subject in found["subjects"]:
            if subject["name"] in results:
                one = results[subject["name"]][task]
                score = f"{one['value']:.3f} ± {one['stderr']:.3f}"
                apart = (
                    ""
                    if one["difference"] is None
                    else f"{one['difference']:+.3f} ± {one['difference_stderr']:.3f}"
                )
                table.add_row(escape(subject["name"]), one["metric"], score, apart, f"{one['n']:,}")
    return table


def _table(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=SIMPLE, padding=(0, 0), pad_edge=False, show_edge=False
    )
    table.add_column("subject", overflow="fold")
    return table


def _rate(rate: dict[str, Any]) -> str:
    low, high = rate["ci"]
    return f"{rate['count']}/{rate['total']} {low * 100:.0f}–{high:.0%}"


def _share(rate: dict[str, Any] | None) -> str:
    return "–" if rate is None else f"{rate['rate']:.0%}"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
