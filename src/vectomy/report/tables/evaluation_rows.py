"""The measurements of `vectomy evaluate` as the rows of a card: one for each subject and prompt
set, rates with intervals.
"""

from __future__ import annotations

from typing import Any

from vectomy.report.tables.numbers import decimal, finite
from vectomy.report.tables.statement import Cell, rate_cell

__all__ = ["evaluation_rows"]

COLUMNS = ("refusals", "degenerate", "KL first token", "KL per token", "CE of the base's answers")
CONTROLS = ("random", "noise")


def evaluation_rows(evaluation: dict[str, Any]) -> dict[str, Any]:
    """`judge`, `answer_tokens`, `columns`, `rows` of (label, cells) and lines of `capability`, from
    evaluation.json (docs/evaluation-json.md). Controls are left out.
    """
    kinds = {str(s.get("name")): s.get("kind") for s in evaluation.get("subjects") or []}
    results = {
        name: held
        for name, held in (evaluation.get("results") or {}).items()
        if kinds.get(name) not in CONTROLS
    }
    rows: list[tuple[str, list[Cell]]] = []
    for name, held in results.items():
        for of, measured in (held.get("sets") or {}).items():
            rows.append((f"{name}, {of}", _cells(measured)))
            labelled = (measured.get("by_label") or {}).items()
            rows += [
                (f"{name}, {of}, {label} prompts", _cells(part))
                for label, part in labelled
                if len(labelled) > 1
            ]
    tasks = [(name, held.get("capability") or {}) for name, held in results.items()]
    settings = evaluation.get("settings") or {}
    return {
        "judge": (evaluation.get("judge") or {}).get("name") or "not named",
        "answer_tokens": settings.get("answer_tokens", "an unrecorded number of"),
        "columns": COLUMNS,
        "rows": rows,
        "capability": [
            f"{name}, {task}: {_task(found)}" for name, held in tasks for task, found in held.items()
        ],
    }


def _cells(measured: dict[str, Any]) -> list[Cell]:
    numbers = [measured.get(key) for key in ("kl_first_token", "kl_per_token", "ce_own_answers")]
    return [
        rate_cell(measured.get("refusal")),
        rate_cell(measured.get("degenerate")),
        *(Cell(finite(value), decimal(value)) for value in numbers),
    ]


def _task(found: dict[str, Any]) -> str:
    error = finite(found.get("stderr"))
    value = f"{found.get('metric')} {decimal(found.get('value'))}"
    return value if error is None else f"{value}, standard error {decimal(error, 2)}"
