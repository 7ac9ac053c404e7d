"""The page of a run: one HTML file that needs nothing beside it, readable without scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vectomy.core.results import JsonObject, RunCompletion, RunResults, SearchResults, Separation
from vectomy.report.charts import rate_charts as figures
from vectomy.report.charts.frontier_chart import frontier_chart, points
from vectomy.report.charts.heatmap import heat_map, same_candidate
from vectomy.report.charts.losses_chart import losses_chart
from vectomy.report.charts.pca_chart import pca_chart
from vectomy.report.charts.receipt_chart import left_by_layer
from vectomy.report.charts.strengths_map import strengths_map, strengths_of
from vectomy.report.tables.behaviour_effect import name_sides
from vectomy.report.tables.completions import answers, verdict_name
from vectomy.report.tables.headline import write_headline
from vectomy.report.tables.length_table import length_table
from vectomy.report.tables.numbers import finite
from vectomy.report.tables.recipe_terms import (
    kl_name,
    origin,
    rule,
    scores_of,
    several,
    strength,
    what,
)
from vectomy.report.tables.statement import describe_results, forms, rows, sources
from vectomy.report.templates import html_page

__all__ = ["render_page"]


@dataclass(frozen=True)
class DrawnPlane:
    """The principal plane of one layer."""

    layer: int | None
    drawn: Markup


FORMS = ("base", "hooks", "lora", "baked", "base_full", "baked_full")


def render_page(
    summary: JsonObject,
    scores: JsonObject,
    separation: JsonObject,
    completions: Sequence[JsonObject],
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
    results, search = RunResults.from_json(summary), SearchResults.from_json(scores)
    projections = Separation.from_json(separation)
    return html_page(
        "page.html.jinja",
        summary=RunResults.repair(summary),
        **_result(results),
        **_selection(search, name_sides(results)),
        **_searched(results, search, projections),
        **_separation(projections, name_sides(results)),
        **_completions([RunCompletion.from_json(row) for row in completions]),
        **_provenance(results),
    )


def _result(summary: RunResults) -> dict[str, object]:
    return {
        "behaviour": str(summary.behaviour or "behaviour"),
        "model": _short_name(str(summary.model or summary.base_model or "the model")),
        "what": what(summary),
        "several": several(summary),
        "origin": origin(summary),
        "strength": strength(summary),
        "forms": list(forms(summary)),
        "rows": rows(summary),
        "headline": write_headline(summary),
        **describe_results(summary),
        "intervals": figures.intervals(summary),
        "lengths": length_table(summary),
        "direction": summary.direction,
        "receipt": summary.receipt,
        "left_by_layer": left_by_layer(summary.receipt),
    }


def _short_name(model: str) -> str:
    """A Hub id as it is, a folder by its last part."""
    return model.rstrip("/").rsplit("/", 1)[-1] or model if model.startswith(("/", "~", ".")) else model


def _selection(scores: SearchResults, sides: Mapping[str, str]) -> dict[str, object]:
    """What is shown of candidates that are directions, each of a layer and a position."""
    candidates, chosen = () if scores.is_of_edits else scores.candidates, scores.chosen
    drawn, columns = scores_of(scores.recipe, sides)
    tried = [candidate.passed for candidate in candidates]
    maps = ((score, heat_map(score, candidates, chosen, tried)) for score in drawn)
    return {
        "scores": scores,
        "columns": columns,
        "candidates": [
            {"candidate": candidate, "chosen": same_candidate(candidate, chosen), "tried": full}
            for candidate, full in zip(candidates, tried, strict=True)
        ],
        "passed": sum(tried),
        "scored": sum(finite(getattr(candidate, columns[0].key)) is not None for candidate in candidates),
        "maps": [(score, picture) for score, picture in maps if picture],
        "answered": [candidate for candidate in candidates if candidate.answers],
    }


def _searched(summary: RunResults, scores: SearchResults, separation: Separation) -> dict[str, object]:
    """What is shown of candidates that are whole edits."""
    if not scores.is_of_edits:
        return {"points": []}
    settings, sides = summary.settings, name_sides(summary)
    taken = finite(scores.chosen.step if scores.chosen else None)
    return {
        "points": points(scores),
        "kl_name": kl_name(scores.recipe),
        "rule": rule(scores, settings, sides),
        # The chart shows how much behaviour is left. A trait may be induced: it has only the table.
        "frontier": "" if summary.trait else frontier_chart(scores, settings, sides["positive"]),
        "strengths": strengths_of(scores),
        "strengths_map": strengths_map(scores, len(separation.layers)),
        "losses": losses_chart(scores.history, taken=taken),
        "marks_step": taken is not None,
    }


def _separation(separation: Separation, sides: Mapping[str, str]) -> dict[str, object]:
    here = next((row for row in separation.layers if row.layer == separation.layer), None)
    drawn = (
        ("Projections at the chosen layer", figures.histogram(separation, sides)),
        ("Mean projection by layer", figures.means_by_layer(separation, sides)),
        ("AUROC by layer", figures.auroc_by_layer(separation)),
    )
    return {
        "separation": separation,
        "here": here,
        "charts": [(name, chart) for name, chart in drawn if chart],
        **_planes(separation, sides),
    }


def _planes(separation: Separation, sides: Mapping[str, str]) -> dict[str, object]:
    """The principal planes by layer, that of the chosen layer being shown."""
    chosen = separation.layer
    others = [plane for plane in separation.planes if plane.layer != chosen]
    stored = [*others, separation.pca.model_copy(update={"layer": chosen})] if separation.pca else others
    ordered = sorted(stored, key=lambda plane: -1 if plane.layer is None else plane.layer)
    drawn = [
        DrawnPlane(plane.layer, chart)
        for plane in ordered
        if (chart := pca_chart(plane, sides, "" if plane.layer == chosen else f"-{plane.layer}"))
    ]
    shown = next((index for index, plane in enumerate(drawn) if plane.layer == chosen), 0)
    return {"planes": drawn, "plane_shown": shown}


def _completions(completions: Sequence[RunCompletion]) -> dict[str, object]:
    pairs = []
    moves: Counter[tuple[str, str, str]] = Counter()
    for row in completions:
        edited = row.baked or row.hooks
        before, after = (answer.verdict if answer else None for answer in (row.base, edited))
        moved = edited is not None and before != after
        pairs.append(
            {
                "set": row.set,
                "prompt": row.prompt,
                "changed": moved,
                "answers": answers(row.answers, FORMS),
            }
        )
        if edited is not None:
            moves[str(row.set), verdict_name(before), verdict_name(after)] += 1
    both = [(row.hooks, row.baked) for row in completions if row.hooks and row.baked]
    return {
        "pairs": pairs,
        "moves": sorted(moves.items(), key=lambda move: (move[0][0] != "positive", -move[1])),
        "both": len(both),
        "same": sum(hooks.text == baked.text for hooks, baked in both),
    }


def _provenance(summary: RunResults) -> dict[str, object]:
    return {
        **figures.timings(summary.stages),
        "sources": sources(summary),
        "versions": summary.versions,
        "settings": summary.settings,
        "judge": summary.judge.to_json(),
        "edit": summary.edit.to_json(),
    }
