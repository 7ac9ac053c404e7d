"""The page of an evaluation: models, edits and controls side by side on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence

from vectomy.core.results import EvaluationCompletion, EvaluationResults, JsonObject
from vectomy.report.charts.lengths_chart import budgets_chart
from vectomy.report.charts.rate_charts import timings
from vectomy.report.charts.tradeoff_chart import over_refusal_chart, tradeoff_chart
from vectomy.report.charts.verdict_mix import verdict_mix
from vectomy.report.tables import measures
from vectomy.report.tables.behaviour_effect import describe_change
from vectomy.report.tables.completions import answers, list_answers
from vectomy.report.tables.evaluation_headline import compare_subjects, write_evaluation_headline
from vectomy.report.tables.gate_table import gate_table
from vectomy.report.tables.numbers import finite
from vectomy.report.tables.subject_parts import (
    Part,
    SubjectResult,
    base_subject,
    damage_set,
    focus,
    main_part,
    over_refusal,
    parts,
    subjects,
)
from vectomy.report.templates import html_page

__all__ = ["render_evaluation"]


def render_evaluation(evaluation: JsonObject, completions: Sequence[JsonObject]) -> str:
    """The whole report of `vectomy evaluate`.

    Args:
        evaluation: evaluation.json, as docs/evaluation-json.md has it.
        completions: the rows of completions.jsonl.

    Returns:
        Self-contained HTML. Parts whose input is absent are left out or say so.
    """
    results = EvaluationResults.from_json(evaluation)
    compared, base = subjects(results), base_subject(results)
    return html_page(
        "evaluation.html.jinja",
        evaluation=results,
        behaviour=str(results.behaviour or "behaviour"),
        subjects=compared,
        base=base,
        sets=results.sets,
        prompts=sum(finite(row.count) or 0 for row in results.sets) or None,
        **_result(results, compared, base),
        **_costs(results, compared),
        **_completions(compared, [EvaluationCompletion.from_json(row) for row in completions]),
        **_provenance(results),
    )


def _result(
    evaluation: EvaluationResults, compared: Sequence[SubjectResult], base: SubjectResult | None
) -> dict[str, object]:
    main, damage, labelled = main_part(evaluation), damage_set(evaluation), over_refusal(evaluation)
    shown = focus(compared)
    names = _names(evaluation)
    typed = [(name, made) for name in names if (made := measures.types_table(compared, name))]
    return {
        "main": main,
        "damage": damage,
        "labelled": labelled,
        "shown": shown,
        "headline": write_evaluation_headline(evaluation),
        **_describe_refusals(main, labelled, base, shown),
        "controls": [
            (subject, main.refusal(subject), finite(subject.on(damage or "").kl_per_token))
            for subject in compared
            if main is not None and subject.kind in ("random", "noise") and main.rate(subject) is not None
        ],
        "less": _warn_of(main, base, compared),
        "tradeoff": tradeoff_chart(compared, main, damage) if main and damage else "",
        "mix": verdict_mix(compared, main.set) if main else "",
        "result": measures.summary_table(compared, parts(evaluation), damage),
        "gates": gate_table(evaluation.gates),
        "detectable": any(
            numbers.refusal.minimum_detectable_effect is not None
            for subject in evaluation.results.values()
            for numbers in subject.sets.values()
        ),
        "over_refusal": over_refusal_chart(compared, *labelled) if labelled else "",
        "types": typed,
        "budgets": [chart for name in names if (chart := budgets_chart(compared, name))],
        "budget_table": measures.budget_table(compared, names),
        "paired": measures.paired_table(compared, names),
    }


def _costs(evaluation: EvaluationResults, compared: Sequence[SubjectResult]) -> dict[str, object]:
    return {
        "set_tables": [made for name in _names(evaluation) if (made := measures.set_table(compared, name))],
        "cost_tables": [
            made
            for table in (measures.capability_table, measures.conditions_table)
            if (made := table(compared))
        ],
    }


def _names(evaluation: EvaluationResults) -> list[str]:
    return [str(row.name) for row in evaluation.sets]


def _describe_refusals(
    main: Part | None,
    labelled: tuple[Part, Part] | None,
    base: SubjectResult | None,
    shown: SubjectResult | None,
) -> dict[str, object]:
    """How refusals moved from the base to the subject that is spoken of first, with intervals: on
    the main prompts (`refusals`), on safe ones (`over`), and by label.
    """
    if main is None or base is None or shown is None:
        return {"refusals": "", "over": "", "by_label": []}

    def describe(part: Part, noun: str) -> str:
        return describe_change(compare_subjects(part, base, shown), noun, between="of it")

    models = f"From {base.name} to {shown.name},"
    safe = labelled[0] if labelled and labelled[0] != main else None
    over = f"Refusals of safe prompts, which are over-refusals ({safe.set})," if safe else ""
    return {
        "refusals": describe(main, f"{models} refusals on {main.name}"),
        "over": describe(safe, over) if safe else "",
        "by_label": [describe(part, f"{models} refusals of {part.label} prompts") for part in labelled or ()],
    }


def _warn_of(main: Part | None, base: SubjectResult | None, compared: Sequence[SubjectResult]) -> str:
    """Who refuses measurably less than the base, and what takes the place of refusals."""
    if main is None or base is None:
        return ""
    effects = {
        subject.name: compare_subjects(main, base, subject)
        for subject in compared
        if subject is not base and subject.kind not in ("random", "noise")
    }
    lower = [name for name, effect in effects.items() if effect.falls and effect.kind != "replaced"]
    replaced = [name for name, effect in effects.items() if effect.kind == "replaced"]
    s = "s" if len(lower) == 1 else ""
    sentences = []
    if lower:
        sentences.append(
            f"On {main.name}, {list_answers(lower)} refuse{s} less than {base.name} and answer{s} requests "
            "that it declines, harmful ones included where the prompts ask for harm."
        )
    if replaced:
        s = "s" if len(replaced) == 1 else ""
        sentences.append(
            f"On {main.name}, {list_answers(replaced)} refuse{s} less than {base.name}, but most of the lost "
            "refusals are degenerate answers now."
        )
    return " ".join(sentences)


def _completions(
    compared: Sequence[SubjectResult], rows: Sequence[EvaluationCompletion]
) -> dict[str, object]:
    names = tuple(subject.name for subject in compared)
    shown = focus(compared)
    return {
        "names": names,
        "left": 0,
        "right": names.index(shown.name) if shown else max(len(names) - 1, 0),
        "pairs": [
            {
                "set": row.set,
                "type": str(row.type or "").replace("_", " "),
                "label": row.label,
                "prompt": row.prompt,
                "history": row.history,
                "answers": answers(row.answers, names),
            }
            for row in rows
        ],
        "sets_of_answers": list(dict.fromkeys(str(row.set) for row in rows)),
    }


def _provenance(evaluation: EvaluationResults) -> dict[str, object]:
    return {
        **timings(evaluation.seconds),
        "judge": evaluation.judge.to_json(),
        "settings": evaluation.settings,
        "versions": evaluation.versions,
    }
