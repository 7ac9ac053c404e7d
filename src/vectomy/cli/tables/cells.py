"""Cells of the terminal's tables: text that is shown as it is, and a dash for what is missing."""

from __future__ import annotations

from vectomy.core.json_value import JsonObject

__all__ = ["MISSING", "setting", "shown", "text_cell"]

MISSING = "–"


def text_cell(value: object) -> str:
    """A name, or a dash where there is none."""
    return MISSING if value is None else str(value)


def shown(value: float | None, form: str) -> str:
    """A number in a format of Python, or a dash where it was not measured."""
    return MISSING if value is None else format(value, form)


def setting(settings: JsonObject, name: str) -> str:
    """A setting that the results record."""
    value = settings.get(name)
    return "an unrecorded number of" if value is None else str(value)
