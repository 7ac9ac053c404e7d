"""The page of an evaluation: models, edits and controls side by side on the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

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


def render_evaluation(evaluation: dict[str, Any], completions: list[dict[str, Any]]) -> str:
    """The whole report of `vectomy evaluate`.

    Args:
        evaluation: evaluation.json, as docs/evaluation-json.md has it.
        completions: the rows of completions.jsonl.

    Returns:
        Self-contained HTML. Parts whose input is absent are left out or say so.
    """
    # Null and absent say the same: not measured.
    evaluation = {key: value if key == "settings" else _measured(value) for key, value in evaluation.items()}
    found = subjects(evaluation)
    base = next(
        (subject for subject in found if subject.name == evaluation.get("base")), found[0] if found else None
    )
    return html_page(
        "evaluation.html.jinja",
        evaluation=evaluation,
        behaviour=str(evaluation.get("behaviour") or "behaviour"),
        subjects=found,
        base=base,
        sets=evaluation.get("sets") or [],
        prompts=sum(finite(row.get("count")) or 0 for row in evaluation.get("sets") or []) or None,
        **_result(evaluation, found, base),
        **_costs(evaluation, found),
        **_completions(found, completions),
        **_provenance(evaluation),
    )


def _measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _measured(inner) for key, inner in value.items() if inner is not None}
    return [_measured(inner) for inner in value if inner is not None] if isinstance(value, list) else value


def _result(
    evaluation: Mapping[str, Any], found: Sequence[SubjectResult], base: SubjectResult | None
) -> dict[str, Any]:
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
        "kl": finite(shown.on(damage).get("kl_per_token")) if shown and damage else None,
        "controls": [
            (subject, main.refusal(subject), finite(subject.on(damage or "").get("kl_per_token")))
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


def _costs(evaluation: Mapping[str, Any], found: Sequence[SubjectResult]) -> dict[str, Any]:
    return {
        "set_tables": [made for name in _names(evaluation) if (made := measures.set_table(found, name))],
        "cost_tables": [
            made for table in (measures.capability_table, measures.conditions_table) if (made := table(found))
        ],
    }


def _names(evaluation: Mapping[str, Any]) -> list[str]:
    return [str(row.get("name")) for row in evaluation.get("sets") or []]


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
    p = finite((shown.on(main.set).get("against_base") or {}).get("p"))
    return "" if p is None else measures.chance(p)


def _completions(found: Sequence[SubjectResult], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = tuple(subject.name for subject in found)
    shown = focus(found)
    return {
        "names": names,
        "left": 0,
        "right": names.index(shown.name) if shown else max(len(names) - 1, 0),
        "pairs": [
            {
                "set": row.get("set"),
                "type": str(row.get("type") or "").replace("_", " "),
                "label": row.get("label"),
                "prompt": row.get("prompt"),
                "history": row.get("history") or [],
                "answers": answers(row.get("answers") or {}, names),
            }
            for row in rows
        ],
        "sets_of_answers": list(dict.fromkeys(str(row.get("set")) for row in rows)),
    }


def _provenance(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **timings(evaluation.get("seconds")),
        "judge": evaluation.get("judge") or {},
        "settings": evaluation.get("settings") or {},
        "versions": evaluation.get("versions") or {},
    }
