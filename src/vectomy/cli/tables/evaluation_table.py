"""An evaluation as tables in the terminal, narrow enough for 80 columns; evaluation.json has the
rest.
"""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from vectomy.cli.tables.cells import setting, shown, text_cell
from vectomy.cli.terminal import open_console
from vectomy.core.json_value import JsonObject
from vectomy.core.results import (
    EvaluatedSet,
    EvaluationResults,
    GateResult,
    PartNumbers,
    Rate,
    SetNumbers,
    SubjectNumbers,
    TaskScore,
)
from vectomy.report import write_evaluation_headline

__all__ = ["print_comparison"]


def print_comparison(evaluation: JsonObject, folder: str) -> None:
    """A table for each set with a row for each subject, one for the measures without a set, one for
    the tasks, and how to read them.
    """
    console = open_console()
    results = EvaluationResults.from_json(evaluation)
    for measured in results.sets:
        console.print(_on_set(results, measured))
    tables = [table for table in (_beside(results), _tasks(results)) if table is not None]
    for table in tables:
        console.print(table)
    settings, judge = results.settings, results.judge
    lines = [
        (
            f"base     {results.base}; lost: refused by the base alone; gained: refused by the subject "
            "alone; p: McNemar's exact test"
        ),
        (
            "damage   KL(base || subject) and CE in nats per token, over the base's answers to "
            + _damage_prompts(results)
        ),
        f"judge    {judge.name} {judge.version}: {judge.note}",
        (
            f"answers  {setting(settings, 'answer_tokens')} greedy tokens, "
            f"{settings.get('dtype', 'unrecorded dtype')} on "
            f"{settings.get('device', 'an unrecorded device')}; rates with 95% intervals"
        ),
        *(
            f"tasks    lm-eval {version}; scores and paired differences from the model that a subject is "
            "compared with, ± standard errors"
            for version in [results.versions.get("lm_eval")]
            if version
        ),
        *(f"note     {subject.name}: {subject.note}" for subject in results.subjects if subject.note),
        *_effects(results),
        *map(_gate, results.gates),
        f"written  {folder}: report.html, evaluation.json, completions.jsonl",
        *_headline(results),
        f"page     {(Path(folder) / 'report.html').absolute().as_uri()}",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _headline(results: EvaluationResults) -> list[str]:
    headline = write_evaluation_headline(results)
    if headline is None:
        return []
    cost = headline.cost.removeprefix("Cost and side effects: ")
    return [f"result   {headline.gain}", *([f"cost     {cost}"] if cost else [])]


def _damage_prompts(results: EvaluationResults) -> str:
    """How many prompts of each set KL and CE are over: `12 harmful prompts, 100 of 250 xstest
    prompts`.
    """
    limit, sets = results.settings.get("damage_prompts"), results.sets
    if not isinstance(limit, int) or any(row.count is None for row in sets):
        return f"{setting(results.settings, 'damage_prompts')} prompts of a set"
    return ", ".join(
        f"{f'{limit} of ' if limit < (row.count or 0) else ''}{row.count} {row.name} prompts" for row in sets
    )


def _effects(results: EvaluationResults) -> list[str]:
    """The minimum detectable effect of each set, at the base's rate."""
    base = results.results.get(str(results.base), SubjectNumbers())
    return [
        f"shows    {name}: a change of {effect * 100:.0f} points from the base's {_share(numbers.refusal)} "
        f"is found with 80% probability, the judge's errors included"
        for name, numbers in base.sets.items()
        if (effect := numbers.refusal.minimum_detectable_effect) is not None
    ]


def _gate(result: GateResult) -> str:
    low, high = result.ci or (None, None)
    interval = "" if low is None else f", 95% interval {shown(low, '.3g')} to {shown(high, '.3g')}"
    outcome = "unresolved: give more prompts" if result.status == "unresolved" else result.status
    where = ".".join(filter(None, (result.set, result.label, result.measure)))
    limit = f"limit {shown(result.limit, '.3g')}"
    return (
        f"gate     {result.gate} for {result.subject}: {outcome} "
        f"({where} {shown(result.value, '.3g')}{interval}; {limit})"
    )


def _on_set(results: EvaluationResults, measured: EvaluatedSet) -> Table:
    labels = list(dict.fromkeys(kind.label for kind in measured.types if kind.label is not None))
    table = _table(f"{measured.name}: {measured.count} prompts")
    for head in ("refusals", *labels, "degen.", "lost", "gained", "p", "KL", "CE"):
        table.add_column(head, justify="right", no_wrap=True)
    for subject in results.subjects:
        numbers = results.results.get(str(subject.name), SubjectNumbers()).sets.get(
            str(measured.name), SetNumbers()
        )
        paired = numbers.against_base
        table.add_row(
            text_cell(subject.name),
            _rate(numbers.refusal),
            *(_share(numbers.by_label.get(label, PartNumbers()).refusal) for label in labels),
            _share(numbers.degenerate),
            *(
                ("", "", "")
                if paired is None
                else (shown(paired.lost, "d"), shown(paired.gained, "d"), shown(paired.p, ".1g"))
            ),
            _decimal(numbers.kl_per_token),
            _decimal(numbers.ce_own_answers),
        )
    return table


def _beside(results: EvaluationResults) -> Table | None:
    """Measures without a set, a row for each subject; None if there are none."""
    columns: dict[str, dict[str, str]] = {}
    for name, subject_numbers in results.results.items():
        for text, numbers in subject_numbers.perplexity.items():
            columns.setdefault(f"perplexity {text}", {})[name] = shown(numbers.perplexity, ".2f")
        if multi_turn := subject_numbers.multi_turn:
            columns.setdefault("2nd turns refused", {})[name] = _rate(multi_turn.refusal)
        if long_context := subject_numbers.long_context:
            columns.setdefault("long contexts answered", {})[name] = _rate(long_context.answered)
        if tool_calls := subject_numbers.tool_calls:
            columns.setdefault("valid tool calls", {})[name] = _rate(tool_calls.valid)
    if not columns:
        return None
    table = _table("beside the sets")
    for head in columns:
        table.add_column(head, justify="right")
    for subject in results.subjects:
        cells = [column.get(str(subject.name), "") for column in columns.values()]
        if any(cells):
            table.add_row(text_cell(subject.name), *cells)
    return table


def _tasks(results: EvaluationResults) -> Table | None:
    """A row for each task and subject, the subjects of a task below each other; None where no task
    was run.
    """
    scores = {name: numbers.capability for name, numbers in results.results.items() if numbers.capability}
    if not scores:
        return None
    table = _table("tasks")
    for head in ("metric", "score", "difference", "n"):
        table.add_column(head, justify="right", no_wrap=True)
    for task in next(iter(scores.values())):
        table.add_section()
        table.add_row(Text(task, "bold"))
        for subject in results.subjects:
            if str(subject.name) in scores:
                item = scores[str(subject.name)].get(task, TaskScore())
                score = f"{shown(item.value, '.3f')} ± {shown(item.stderr, '.3f')}"
                difference = (
                    ""
                    if item.difference is None
                    else f"{item.difference:+.3f} ± {shown(item.difference_stderr, '.3f')}"
                )
                table.add_row(
                    text_cell(subject.name), text_cell(item.metric), score, difference, shown(item.n, ",")
                )
    return table


def _table(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", box=SIMPLE, padding=(0, 0), pad_edge=False, show_edge=False
    )
    table.add_column("subject", overflow="fold")
    return table


def _rate(rate: Rate) -> str:
    low, high = rate.ci or (0.0, 1.0)
    shown = f"{rate.count}/{rate.total} {low * 100:.0f}–{high:.0%}" if rate.total else "–"
    return f"{shown}\n{rate.not_judged} not judged" if rate.not_judged else shown


def _share(rate: Rate) -> str:
    return shown(rate.rate, ".0%")


def _decimal(value: float | None) -> str:
    return shown(value, ".3f")
