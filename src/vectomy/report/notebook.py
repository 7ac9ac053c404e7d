"""Figures of the pages in a notebook's cell: the one-line repr of a value, and a picture below it.

The markup is escaped, loads nothing, and brings its colours along: those of the pages, limited to
the cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from markupsafe import Markup

from vectomy.core.results import ReceiptRecord, SearchResults
from vectomy.report.charts.receipt_chart import left_by_layer
from vectomy.report.charts.strengths_map import strengths_map
from vectomy.report.charts.svg import element
from vectomy.report.charts.value_map import value_map

__all__ = ["draw_cosines", "draw_projection", "draw_strengths", "draw_table", "draw_values"]

Rows = Sequence[Mapping[str, object]]

OWN = """
.vectomy { color: var(--ink); }
.vectomy code { color: inherit; background: none; }
.vectomy svg { display: block; width: 100%; max-width: calc(var(--natural) * 1.18); height: auto;
  font-family: var(--sans); }
"""


def draw_strengths(line: str, rows: Rows, n_layers: int) -> str:
    """HTML of a value that edits writers.

    Args:
        line: its repr.
        rows: `layer`, `component` and `strengths` of each writer.
    """
    return _cell(line, strengths_map(SearchResults.from_json({"strengths": list(rows)}), n_layers))


def draw_projection(line: str, projection: Sequence[float] | None) -> str:
    """HTML of a receipt: what is left of the directions, by layer."""
    measured = None if projection is None else list(projection)
    return _cell(line, left_by_layer(ReceiptRecord.from_json({"projection": measured})))


def draw_cosines(line: str, rows: Sequence[Sequence[float]]) -> str:
    """HTML of directions: their cosines between layers."""
    layers = range(len(rows))
    return _cell(line, value_map("Cosine between layers", rows, layers, layers, "layer", 1.0))


def draw_values(
    line: str,
    title: str,
    rows: Sequence[Sequence[float]],
    layers: Sequence[int],
    across: str,
    columns: Sequence[int],
) -> str:
    """HTML of numbers by layer and column; the strongest colour is the largest of them."""
    most = max((abs(value) for row in rows for value in row if math.isfinite(value)), default=0.0)
    return _cell(line, value_map(title, rows, layers, columns, across, most))


def draw_table(line: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """HTML of a table; every cell is escaped."""
    head = element("tr", *(element("th", name, scope="col") for name in heads))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return _cell(line, element("table", element("thead", head), element("tbody", *body)))


def _cell(line: str, picture: Markup) -> str:
    return str(
        element(
            "div",
            element("style", Markup(_style())),
            element("code", line),
            *([element("figure", picture)] if picture else []),
            class_="vectomy",
        )
    )


@cache
def _style() -> str:
    """The colours of the pages and their rules for figures, for elements below `.vectomy`."""
    page = resources.files("vectomy.report").joinpath("pages/page.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{([^}]*)\}", page)[:2]
    rules = "\n".join(re.findall(r"^svg .*$", page, re.M))
    return (
        f".vectomy {{{light}}}\n@media (prefers-color-scheme: dark) {{ .vectomy {{{dark}}} }}\n"
        + re.sub(r"(?<![\w.-])svg ", ".vectomy svg ", rules)
        + OWN
    )
