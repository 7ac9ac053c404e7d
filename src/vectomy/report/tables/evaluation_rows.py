"""The measurements of `vectomy evaluate` as the rows of a card: one for each subject and prompt
set, rates with intervals.
"""

from __future__ import annotations

from vectomy.core.results import EvaluationResults, PartNumbers, TaskScore
from vectomy.report.tables.numbers import decimal, finite
from vectomy.report.tables.statement import Cell, rate_cell

__all__ = ["evaluation_rows"]

COLUMNS = ("refusals", "degenerate", "KL first token", "KL per token", "CE of the base's answers")
CONTROLS = ("random", "noise")


def evaluation_rows(evaluation: EvaluationResults) -> dict[str, object]:
    """`judge`, `answer_tokens`, `columns`, `rows` of (label, cells) and lines of `capability`, from
    evaluation.json (docs/evaluation-json.md). Controls are left out.
    """
    kinds = {str(subject.name): subject.kind for subject in evaluation.subjects}
    results = {
        name: numbers for name, numbers in evaluation.results.items() if kinds.get(name) not in CONTROLS
    }
    rows: list[tuple[str, list[Cell]]] = []
    for name, numbers in results.items():
        for of, measured in numbers.sets.items():
            rows.append((f"{name}, {of}", _cells(measured)))
            labelled = measured.by_label.items()
            rows += [
                (f"{name}, {of}, {label} prompts", _cells(part))
                for label, part in labelled
                if len(labelled) > 1
            ]
    return {
        "judge": evaluation.judge.name or "not named",
        "answer_tokens": evaluation.settings.get("answer_tokens", "an unrecorded number of"),
        "columns": COLUMNS,
        "rows": rows,
        "capability": [
            f"{name}, {task}: {_task(score)}"
            for name, numbers in results.items()
            for task, score in numbers.capability.items()
        ],
    }


def _cells(measured: PartNumbers) -> list[Cell]:
    numbers = (measured.kl_first_token, measured.kl_per_token, measured.ce_own_answers)
    return [
        rate_cell(measured.refusal),
        rate_cell(measured.degenerate),
        *(Cell(finite(value), decimal(value)) for value in numbers),
    ]


def _task(score: TaskScore) -> str:
    error = finite(score.stderr)
    value = f"{score.metric} {decimal(score.value)}"
    return value if error is None else f"{value}, standard error {decimal(error, 2)}"
