"""Tables of an evaluation as columns, lines and cells. Empty columns and lines are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vectomy.report.tables.statement import Cell
from vectomy.report.tables.subject_parts import SubjectResult

__all__ = ["Column", "Line", "Reply", "Table", "lay_out", "lay_out_subjects"]

Reply = Callable[[SubjectResult], Cell]
"""The cell of a subject in one column."""


@dataclass(frozen=True)
class Column:
    head: str
    hint: str = ""


@dataclass(frozen=True)
class Line:
    """A row; without cells it heads the rows below it."""

    head: str
    hint: str
    cells: tuple[Cell, ...]
    class_: str = ""


@dataclass(frozen=True)
class Table:
    name: str
    caption: str
    corner: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    class_: str = ""


def lay_out_subjects(
    name: str, caption: str, compared: Sequence[SubjectResult], columns: Sequence[tuple[Column, Reply]]
) -> Table | None:
    """A line for each subject."""
    lines = [
        Line(subject.name, subject.described, tuple(of(subject) for _, of in columns), subject.class_)
        for subject in compared
    ]
    return lay_out(name, caption, "Subject", [column for column, _ in columns], lines)


def _is_told(cell: Cell) -> bool:
    """Whether a cell has a value, or says why it has none."""
    return cell.value is not None or bool(cell.detail)


def lay_out(
    name: str, caption: str, corner: str, columns: Sequence[Column], lines: Sequence[Line], class_: str = ""
) -> Table | None:
    """The table without empty columns and lines; None if no column is left."""
    full = [line for line in lines if line.cells]
    kept = [index for index in range(len(columns)) if any(_is_told(line.cells[index]) for line in full)]
    if not kept:
        return None
    left = [
        replace(line, cells=tuple(line.cells[index] for index in kept)) if line.cells else line
        for line in lines
    ]
    filled = [line for line in left if not line.cells or any(map(_is_told, line.cells))]
    return Table(name, caption, corner, tuple(columns[index] for index in kept), tuple(filled), class_)
