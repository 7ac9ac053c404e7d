"""The page of an evaluation, parsed: its pictures, tables and words."""

from __future__ import annotations

import re
from typing import Any

from invented_evaluation import an_evaluation, evaluated_completions
from parsed_page import Page

from vectomy.report import render_evaluation

Place = tuple[float, float]


def parse_evaluation_page(
    evaluation: dict[str, Any] | None = None, completions: list[dict[str, Any]] | None = None
) -> tuple[Page, str]:
    """The page, parsed and as text; without arguments that of the invented evaluation."""
    text = render_evaluation(
        an_evaluation() if evaluation is None else evaluation,
        evaluated_completions() if completions is None else completions,
    )
    return Page(text), text


def find_svg(text: str, name: str) -> str:
    """The source of the figure `name`."""
    return next(
        part for part in re.findall(r"<svg.*?</svg>", text, flags=re.S) if f'id="{name}-title"' in part
    )


def read_table(found: Page, text: str, name: str) -> dict[str, list[float]]:
    """Values of the table `name` by the head of their line."""
    source = text.split(f'aria-label="Table: {name}"')[1].split("</table>")[0]
    lines = {}
    for line in re.findall(r"<tr.*?</tr>", source.split("<tbody>")[1], flags=re.S):
        head = re.search(r'<th scope="row">(.*?)(<small>|</th>)', line)
        if head:
            lines[head[1]] = [float(value) for value in re.findall(r'<data value="(.*?)"', line)]
    return lines


def find_signs(text: str, name: str) -> dict[str, Place]:
    """Where the sign of each subject stands in the picture `name`."""
    found = {}
    for tag, path, title in re.findall(
        r"<(circle|path)([^>]*class=\"sign [^>]*)><title>(.*?)</title>", find_svg(text, name)
    ):
        numbers = {key: float(value) for key, value in re.findall(r'\b(cx|cy)="([\d.]+)"', path)}
        start = re.search(r'd="M([\d.]+) ([\d.]+)', path)
        at = (
            (numbers["cx"], numbers["cy"])
            if tag == "circle"
            else (float(start[1]), float(start[2]))
            if start
            else None
        )
        assert at is not None
        found[title.split(": ")[0]] = at
    return found


def read_words(found: Page, **wanted: str) -> str:
    return " ".join(words for *_, words in found.having(**wanted))
