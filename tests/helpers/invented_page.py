"""The page of an invented run, parsed, for each recipe."""

from __future__ import annotations

from typing import Any

from invented_run import (
    a_separation,
    a_summary,
    arditi_scores,
    article_scores,
    cosmic_scores,
    gradient_scores,
    some_completions,
    tpe_scores,
)
from parsed_page import Page

from vectomy.report import render_page

RUNS = [
    arditi_scores(),
    article_scores(),
    cosmic_scores(),
    gradient_scores(),
    gradient_scores("selective"),
    tpe_scores(),
]
NAMES = [str(scores["recipe"]) for scores in RUNS]


def page(**changed: Any) -> tuple[Page, str]:
    inputs = {
        "summary": a_summary(),
        "scores": arditi_scores(),
        "separation": a_separation(),
        "completions": some_completions(),
        **changed,
    }
    text = render_page(**inputs)
    return Page(text), text


def values_of(found: Page) -> dict[str, list[float]]:
    """The data elements of each row of the table of results, in their order."""
    rows: dict[str, list[float]] = {}
    pending: list[float] = []
    for tag, attributes, _ in found.found:
        if tag == "data":
            pending.append(float(attributes["value"] or "nan"))
        elif tag == "tr":
            if "data-row" in attributes:
                rows[str(attributes["data-row"])] = pending
            pending = []
    return rows
