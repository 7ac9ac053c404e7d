"""The tables of an evaluation: who against what was measured. A column or table in which nobody was
measured is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from vectomy.core.results import (
    Heading,
    PairedTest,
    PartNumbers,
    Rate,
    SetNumbers,
    TaskScore,
    TextPerplexity,
)
from vectomy.report.charts.heatmap import STEPS
from vectomy.report.charts.lengths_chart import budgets_of
from vectomy.report.tables.numbers import chance, decimal, finite, percent, plain, thousands
from vectomy.report.tables.statement import Cell, rate_cell
from vectomy.report.tables.subject_parts import Part, SubjectResult
from vectomy.report.tables.table_layout import Column, Line, Reply, Table, lay_out, lay_out_subjects

__all__ = [
    "budget_table",
    "capability_table",
    "conditions_table",
    "paired_table",
    "set_table",
    "summary_table",
    "types_table",
]

NONE = Cell(None, "")
# Both sides of a normal distribution outside this many standard errors hold 5%.
APART = 1.96


def summary_table(
    compared: Sequence[SubjectResult], parts: Sequence[Part], damage: str | None
) -> Table | None:
    """Refusals of every part, answers that are no answers, and damage."""
    asked = [
        (Column("Refusals", part.name), lambda s, part=part: rate_cell(part.refusal(s))) for part in parts
    ]
    costs = (
        ()
        if damage is None
        else (
            ("kl_first_token", "KL, first token", f"nats, {damage}"),
            ("kl_per_token", "KL per token", f"nats, {damage}"),
            ("ce_own_answers", "CE of base's answers", f"nats a token, {damage}"),
        )
    )
    return lay_out_subjects(
        "result",
        "Refusal rates with 95% Wilson intervals, degenerate answers on all sets together, and distance from "
        "the base.",
        compared,
        [
            *asked,
            (Column("Degenerate", "all sets"), _degenerate),
            *((Column(head, hint), _number(damage or "", key)) for key, head, hint in costs),
        ],
    )


def set_table(compared: Sequence[SubjectResult], name: str) -> Table | None:
    """Everything measured on one set."""
    shares = [
        (Column(head), lambda s, key=key: _share_of(s.on(name).verdicts, key))
        for key, head in (
            ("full_refusal", "Full refusal"),
            ("partial_refusal", "Partial"),
            ("evasion", "Evasion"),
            ("compliance", "Compliance"),
        )
    ]
    unjudged = (Column("Not judged"), lambda s: _count_of(s.on(name).verdicts, "not_judged"))
    numbers = [
        (Column(heading.head, heading.hint), _number(name, key))
        for key, field in SetNumbers.model_fields.items()
        for heading in field.metadata
        if isinstance(heading, Heading)
    ]
    return lay_out_subjects(
        f"all of {name}",
        f"{name}: verdicts, distance from the base, and the shape of the answers.",
        compared,
        [*shares, (Column("Degenerate"), lambda s: rate_cell(s.on(name).degenerate)), unjudged, *numbers],
    )


def types_table(compared: Sequence[SubjectResult], name: str) -> Table | None:
    """Refusals by type of prompt, safe types first: a heat map that is a table. Darker refuses
    more.
    """
    columns = [subject for subject in compared if subject.on(name).by_type]
    known = {
        str(kind): (str(numbers.label or ""), numbers.refusal.total)
        for subject in columns
        for kind, numbers in subject.on(name).by_type.items()
    }
    lines = []
    for label in sorted({label for label, _ in known.values()}, key=lambda label: (label != "safe", label)):
        kinds = sorted(kind for kind, (of, _) in known.items() if of == label)
        sizes = {known[kind][1] for kind in kinds}
        each = f", {next(iter(sizes))} prompts each" if len(sizes) == 1 else ""
        lines.append(Line(f"{label or 'without a label'}: {len(kinds)} types{each}", "", (), "group"))
        for kind in kinds:
            hint = "" if each else f"of {known[kind][1]}"
            cells = (_heat(s.on(name).by_type.get(kind, PartNumbers()).refusal) for s in columns)
            lines.append(Line(kind.replace("_", " "), hint, tuple(cells)))
    return lay_out(
        f"{name} by type",
        f"Refusals on {name} by type of prompt: darker refuses more. Safe types should stay light.",
        "Type",
        [Column(subject.name) for subject in columns],
        lines,
        "heat",
    )


def budget_table(compared: Sequence[SubjectResult], names: Sequence[str]) -> Table | None:
    """Refusals of every set at every token budget."""
    columns = [
        (
            Column(name, f"{plain(length)} tokens"),
            lambda s, name=name, length=length: rate_cell(
                s.on(name).by_budget.get(str(length), PartNumbers()).refusal
            ),
        )
        for name in names
        for length in budgets_of(compared, name)
        # With one budget it would repeat the result.
        if len(budgets_of(compared, name)) > 1
    ]
    return lay_out_subjects(
        "budgets", "Refusals when the same answers are judged after fewer tokens.", compared, columns
    )


def paired_table(compared: Sequence[SubjectResult], names: Sequence[str]) -> Table | None:
    """McNemar's exact test of each subject against the base, on the same prompts."""

    def tested(name: str, subject: SubjectResult) -> Cell:
        test = subject.on(name).against_base or PairedTest()
        lost, gained, p = test.lost, test.gained, finite(test.p)
        if lost is None or gained is None:
            return NONE
        mark = "apart" if p is not None and p < 0.05 else ""
        return Cell(
            finite(gained - lost), f"−{lost} +{gained}", (f"p {chance(p)}",) if p is not None else (), mark
        )

    others = [subject for subject in compared if subject.kind != "base"]
    return lay_out_subjects(
        "paired tests",
        "Prompts whose refusal was lost (−) and gained (+) against its base, and the p of McNemar's exact "
        "test; p below 0.05 is bold. No correction is made for the number of tests.",
        others,
        [(Column(name), partial(tested, name)) for name in names],
    )


def conditions_table(compared: Sequence[SubjectResult]) -> Table | None:
    """Perplexity on texts, and multi-turn, long-context and tool-call prompts."""
    files = list(dict.fromkeys(name for subject in compared for name in subject.results.perplexity))

    def perplexity(name: str, subject: SubjectResult) -> Cell:
        text = subject.results.perplexity.get(name, TextPerplexity())
        nats, tokens = finite(text.nats_per_token), finite(text.tokens)
        detail = (
            f"{decimal(nats)} nats a token" if nats is not None else "",
            f"{thousands(tokens)} tokens" if tokens else "",
        )
        value = finite(text.perplexity)
        return Cell(value, decimal(value), tuple(words for words in detail if words))

    texts = [(Column("Perplexity", name), partial(perplexity, name)) for name in files]

    def rate(group: str, key: str) -> Reply:
        return lambda s: rate_cell(getattr(getattr(s.results, group), key, None))

    def tokens(subject: SubjectResult) -> Cell:
        value = finite(subject.results.long_context.tokens if subject.results.long_context else None)
        return Cell(value, thousands(value))

    return lay_out_subjects(
        "conditions",
        "Perplexity on texts; prompts of several turns, at the end of a long text, and with tools: "
        "rates with 95% Wilson intervals.",
        compared,
        [
            *texts,
            (Column("Refusals", "multi-turn"), rate("multi_turn", "refusal")),
            (Column("Degenerate", "multi-turn"), rate("multi_turn", "degenerate")),
            (Column("Answered", "multi-turn"), rate("multi_turn", "answered")),
            (Column("Refusals", "long context"), rate("long_context", "refusal")),
            (Column("Degenerate", "long context"), rate("long_context", "degenerate")),
            (Column("Answered", "long context"), rate("long_context", "answered")),
            (Column("Tokens", "long context"), tokens),
            (Column("Valid JSON", "tool calls"), rate("tool_calls", "valid")),
        ],
    )


def capability_table(compared: Sequence[SubjectResult]) -> Table | None:
    """Benchmarks down, subjects across: the value, and the paired difference from what it is
    compared with, with standard errors.
    """
    columns = [subject for subject in compared if subject.results.capability]
    tasks = list(dict.fromkeys(task for subject in columns for task in subject.results.capability))
    lines = []
    for task in tasks:
        scores = [subject.results.capability.get(task, TaskScore()) for subject in columns]
        metric = next((str(score.metric) for score in scores if score.metric), "")
        n = next((score.n for score in scores if score.n is not None), None)
        hint = ", ".join(words for words in (metric, f"n {thousands(n)}" if n is not None else "") if words)
        lines.append(Line(task, hint, tuple(_capability(score) for score in scores)))
    return lay_out(
        "capability",
        "Benchmarks: the value ± its standard error. Below it, ± its standard error, the paired difference "
        "from the base or from the model that a subject was made of: bold if it is more than 1.96 standard "
        "errors from 0.",
        "Task",
        [Column(subject.name) for subject in columns],
        lines,
    )


def _capability(score: TaskScore) -> Cell:
    value, error = finite(score.value), finite(score.stderr)
    if value is None:
        return NONE
    difference, spread = finite(score.difference), finite(score.difference_stderr)
    detail = [] if error is None else [f"± {_thousandths(error)}"]
    if difference is not None:
        detail.append(
            _thousandths(difference, "+") + ("" if spread is None else f" ± {_thousandths(spread)}")
        )
    apart = difference is not None and spread is not None and abs(difference) > APART * spread
    return Cell(value, decimal(value), tuple(detail), "apart" if apart else "")


def _thousandths(value: float, sign: str = "-") -> str:
    return f"{value:{sign}.3f}".replace("-", "−")


def _heat(refusal: Rate) -> Cell:
    rate = finite(refusal.rate)
    if rate is None:
        return NONE
    return Cell(rate, f"{100 * rate:.0f}%", mark=f"q{min(int(rate * STEPS), STEPS - 1)}")


def _degenerate(subject: SubjectResult) -> Cell:
    """Over all sets together."""
    counts = [numbers.verdicts for numbers in subject.results.sets.values()]
    total = sum(_count_judged(verdicts) for verdicts in counts)
    bad = sum(finite(verdicts.get("degenerate")) or 0 for verdicts in counts)
    return Cell(bad / total, percent(bad / total), (f"{bad:g} of {total:g}",)) if total else NONE


def _count_judged(verdicts: Mapping[str, float]) -> float:
    return sum(finite(count) or 0 for verdict, count in verdicts.items() if verdict != "not_judged")


def _count_of(verdicts: Mapping[str, float], key: str) -> Cell:
    count = finite(verdicts.get(key))
    return Cell(count, f"{count:g}") if count else NONE


def _share_of(verdicts: Mapping[str, float], key: str) -> Cell:
    count, total = finite(verdicts.get(key)), _count_judged(verdicts)
    return (
        NONE
        if count is None or not total
        else Cell(count / total, percent(count / total), (f"{count:g} of {total:g}",))
    )


def _number(name: str, key: str) -> Reply:
    def of(subject: SubjectResult) -> Cell:
        value = finite(getattr(subject.on(name), key))
        return Cell(value, decimal(value))

    return of
