"""The page of an evaluation: models, edits and controls side by side on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vectomy.core.results import EvaluationCompletion, EvaluationResults, JsonObject
from vectomy.report.charts.lengths_chart import budgets_chart
from vectomy.report.charts.rate_charts import timings
from vectomy.report.charts.tradeoff_chart import over_refusal_chart, tradeoff_chart
from vectomy.report.charts.verdict_mix import verdict_mix
from vectomy.report.tables import measures
from vectomy.report.tables.completions import answers
from vectomy.report.tables.numbers import finite
from vectomy.report.tables.statement import RateChange, compare_rates
from vectomy.report.tables.subject_parts import (
    Part,
    SubjectResult,
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
    found = subjects(results)
    base = next((subject for subject in found if subject.name == results.base), found[0] if found else None)
    return html_page(
        "evaluation.html.jinja",
        evaluation=results,
        behaviour=str(results.behaviour or "behaviour"),
        subjects=found,
        base=base,
        sets=results.sets,
        prompts=sum(finite(row.count) or 0 for row in results.sets) or None,
        **_result(results, found, base),
        **_costs(results, found),
        **_completions(found, [EvaluationCompletion.from_json(row) for row in completions]),
        **_provenance(results),
    )


def _result(
    evaluation: EvaluationResults, found: Sequence[SubjectResult], base: SubjectResult | None
) -> dict[str, object]:
    main, damage, labelled = main_part(evaluation), damage_set(evaluation), over_refusal(evaluation)
    shown = focus(found)
    p = _p(shown, main)
    moved = _moved(main, base, shown)
    names = _names(evaluation)
    typed = [(name, made) for name in names if (made := measures.types_table(found, name))]
    return {
        "main": main,
        "damage": damage,
        "labelled": labelled,
        "shown": shown,
        # The paired test says more than whether two intervals overlap.
        "moved": replace(moved, apart=None) if moved and p else moved,
        "by_label": [(part, _moved(part, base, shown)) for part in labelled or ()],
        "p": p,
        "kl": finite(shown.on(damage).kl_per_token) if shown and damage else None,
        "controls": [
            (subject, main.refusal(subject), finite(subject.on(damage or "").kl_per_token))
            for subject in found
            if main is not None and subject.kind in ("random", "noise") and main.rate(subject) is not None
        ],
        "less": [s for s in found if s is not base and main and base and _falls(main, base, s)],
        "tradeoff": tradeoff_chart(found, main, damage) if main and damage else "",
        "mix": verdict_mix(found, main.set) if main else "",
        "result": measures.summary_table(found, parts(evaluation), damage),
        "over_refusal": over_refusal_chart(found, *labelled) if labelled else "",
        "types": typed,
        "budgets": [chart for name in names if (chart := budgets_chart(found, name))],
        "budget_table": measures.budget_table(found, names),
        "paired": measures.paired_table(found, names),
    }


def _costs(evaluation: EvaluationResults, found: Sequence[SubjectResult]) -> dict[str, object]:
    return {
        "set_tables": [made for name in _names(evaluation) if (made := measures.set_table(found, name))],
        "cost_tables": [
            made for table in (measures.capability_table, measures.conditions_table) if (made := table(found))
        ],
    }


def _names(evaluation: EvaluationResults) -> list[str]:
    return [str(row.name) for row in evaluation.sets]


def _moved(part: Part | None, base: SubjectResult | None, shown: SubjectResult | None) -> RateChange | None:
    if part is None or base is None or shown is None:
        return None
    return compare_rates(part.refusal(base), part.refusal(shown))


def _falls(main: Part, base: SubjectResult, subject: SubjectResult) -> bool:
    before, after = main.rate(base), main.rate(subject)
    return (
        before is not None
        and after is not None
        and after < before
        and subject.kind not in ("random", "noise")
    )


def _p(shown: SubjectResult | None, main: Part | None) -> str:
    """McNemar's p of the subject that is spoken of first; it is over whole sets."""
    if shown is None or main is None or main.label is not None:
        return ""
    paired = shown.on(main.set).against_base
    p = finite(paired.p if paired else None)
    return "" if p is None else measures.chance(p)


def _completions(found: Sequence[SubjectResult], rows: Sequence[EvaluationCompletion]) -> dict[str, object]:
    names = tuple(subject.name for subject in found)
    shown = focus(found)
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
