"""The page of a run: one HTML file that needs nothing beside it, readable without scripts."""

from __future__ import annotations

from collections import Counter
from typing import Any

from vectomy.report.charts import rate_charts as figures
from vectomy.report.charts.frontier_chart import frontier_chart, points
from vectomy.report.charts.heatmap import heat_map, same_candidate
from vectomy.report.charts.losses_chart import losses_chart
from vectomy.report.charts.pca_chart import pca_chart
from vectomy.report.charts.receipt_chart import left_by_layer
from vectomy.report.charts.strengths_map import strengths_map, strengths_of
from vectomy.report.tables.completions import answers, verdict_name
from vectomy.report.tables.numbers import finite
from vectomy.report.tables.recipe_terms import (
    is_search,
    kl_name,
    origin,
    rule,
    scores_of,
    several,
    strength,
    what,
)
from vectomy.report.tables.statement import KEEP, change, forms, keeps, rate_names, rows, sources
from vectomy.report.templates import html_page

__all__ = ["render_page"]

FORMS = ("base", "hooks", "lora", "baked")


def render_page(
    summary: dict[str, Any],
    scores: dict[str, Any],
    separation: dict[str, Any],
    completions: list[dict[str, Any]],
) -> str:
    """The whole report of a run.

    Args:
        summary: what was edited, how it was measured, and the metrics of each form.
        scores: the recipe's candidates and the chosen one.
        separation: projections of the two sets at the chosen layer, and their moments by layer.
        completions: answers of the base and of each form to the test prompts.

    Returns:
        Self-contained HTML. Parts whose input is absent are left out or say so.
    """
    return html_page(
        "page.html.jinja",
        summary=summary,
        **_result(summary),
        **_selection(scores),
        **_searched(summary, scores, separation),
        **_separation(separation),
        **_completions(completions),
        **_provenance(summary),
    )


def _result(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "behaviour": str(summary.get("behaviour") or "behaviour"),
        "model": _short_name(str(summary.get("model") or summary.get("base_model") or "the model")),
        "what": what(summary),
        "several": several(summary),
        "origin": origin(summary),
        "strength": strength(summary),
        "forms": list(forms(summary)),
        "rows": rows(summary),
        "names": rate_names(summary),
        "refusals": change(summary, "refusal"),
        "harmless": change(summary, "harmless_refusal"),
        "kept": change(summary, KEEP) if keeps(summary) else None,
        "intervals": figures.intervals(summary),
        "direction": summary.get("direction") or {},
        "receipt": summary.get("receipt"),
        "left_by_layer": left_by_layer(summary.get("receipt")),
    }


def _short_name(model: str) -> str:
    """A Hub id as it is, a folder by its last part."""
    return model.rstrip("/").rsplit("/", 1)[-1] or model if model.startswith(("/", "~", ".")) else model


def _selection(scores: dict[str, Any]) -> dict[str, Any]:
    """What is shown of candidates that are directions, each of a layer and a position."""
    candidates, chosen = [] if is_search(scores) else scores.get("candidates") or [], scores.get("chosen")
    drawn, columns = scores_of(scores.get("recipe"))
    tried = [_tried(candidate) for candidate in candidates]
    maps = ((score, heat_map(score, candidates, chosen, tried)) for score in drawn)
    return {
        "scores": scores,
        "columns": columns,
        "candidates": [
            {"candidate": candidate, "chosen": same_candidate(candidate, chosen), "tried": full}
            for candidate, full in zip(candidates, tried, strict=True)
        ],
        "passed": sum(tried),
        "scored": sum(finite(candidate.get(columns[0].key)) is not None for candidate in candidates),
        "maps": [(score, picture) for score, picture in maps if picture],
        "answered": [candidate for candidate in candidates if candidate.get("answers")],
    }


def _searched(summary: dict[str, Any], scores: dict[str, Any], separation: dict[str, Any]) -> dict[str, Any]:
    """What is shown of candidates that are whole edits."""
    if not is_search(scores):
        return {"points": []}
    settings = summary.get("settings") or {}
    return {
        "points": points(scores),
        "kl_name": kl_name(scores.get("recipe")),
        "rule": rule(scores, settings),
        # The chart shows behaviour that is left; a trait may be induced. The table has its strengths.
        "frontier": "" if summary.get("trait") else frontier_chart(scores, settings),
        "strengths": strengths_of(scores),
        "strengths_map": strengths_map(scores, len(separation.get("layers") or [])),
        "losses": losses_chart(scores),
    }


def _tried(candidate: dict[str, Any]) -> bool:
    """Whether a candidate stayed in: arditi's filters let it through, or the article's recipe let
    it answer.
    """
    return not candidate.get("rejected") if "rejected" in candidate else bool(candidate.get("answers"))


def _separation(separation: dict[str, Any]) -> dict[str, Any]:
    here = next(
        (row for row in separation.get("layers") or [] if row.get("layer") == separation.get("layer")), None
    )
    drawn = (
        ("Projections at the chosen layer", figures.histogram(separation)),
        ("Both sets in their principal plane", pca_chart(separation)),
        ("Mean projection by layer", figures.means_by_layer(separation)),
        ("AUROC by layer", figures.auroc_by_layer(separation)),
    )
    return {
        "separation": separation,
        "here": here,
        "charts": [(name, chart) for name, chart in drawn if chart],
    }


def _completions(completions: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = []
    moves: Counter[tuple[str, str, str]] = Counter()
    for row in completions:
        edited = row.get("baked") or row.get("hooks")
        before, after = ((answer or {}).get("verdict") for answer in (row.get("base"), edited))
        moved = edited is not None and before != after
        pairs.append(
            {
                "set": row.get("set"),
                "prompt": row.get("prompt"),
                "changed": moved,
                "answers": answers(row, FORMS),
            }
        )
        if edited is not None:
            moves[str(row.get("set")), verdict_name(before), verdict_name(after)] += 1
    both = [row for row in completions if row.get("hooks") and row.get("baked")]
    return {
        "pairs": pairs,
        "moves": sorted(moves.items(), key=lambda move: (move[0][0] != "positive", -move[1])),
        "both": len(both),
        "same": sum(row["hooks"].get("text") == row["baked"].get("text") for row in both),
    }


def _provenance(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        **figures.timings(summary.get("stages")),
        "sources": sources(summary),
        "versions": summary.get("versions") or {},
        "settings": summary.get("settings") or {},
        "judge": summary.get("judge") or {},
        "edit": summary.get("edit") or {},
    }
