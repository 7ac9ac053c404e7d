"""The gates of an evaluation as a table: what was asked, of whom, and whether it is met."""

from __future__ import annotations

from collections.abc import Sequence

from vectomy.core.results import GateResult
from vectomy.report.tables.numbers import decimal, finite, interval, percent
from vectomy.report.tables.statement import Cell
from vectomy.report.tables.table_layout import Column, Line, Table, lay_out

__all__ = ["gate_table"]

# What decided, by status: against a number, and against the base on the same prompts.
REASONS = {
    "met": ("the whole interval is inside", "not above the base"),
    "missed": ("the whole interval is outside", "chance does not explain it"),
    "unresolved": ("too few prompts to tell", "chance may explain it"),
}


def gate_table(gates: Sequence[GateResult]) -> Table | None:
    """A line for each gate and subject; None without gates."""
    columns = [Column("Outcome"), Column("Value", "95% interval"), Column("Limit")]
    return lay_out("gates", "Limits given with --gate.", "Gate", columns, [_line(gate) for gate in gates])


def _line(gate: GateResult) -> Line:
    about = ", ".join(filter(None, (gate.subject, gate.set, gate.label, gate.measure)))
    against_base = "base" in str(gate.gate).rpartition("=")[2]
    reason = REASONS.get(str(gate.status), ("not recorded", "not recorded"))[against_base]
    if gate.value is None:
        reason = "not measured"
    cells = (
        Cell(None, str(gate.status), (reason,)),
        Cell(finite(gate.value), _shown(gate, gate.value), _bounds(gate)),
        Cell(
            finite(gate.limit), _shown(gate, gate.limit), ("the base's, on the same prompts",) * against_base
        ),
    )
    return Line(str(gate.gate), about, cells)


def _is_rate(gate: GateResult) -> bool:
    return gate.measure in ("refusal", "degenerate")


def _shown(gate: GateResult, value: object) -> str:
    return percent(value) if _is_rate(gate) else decimal(value)


def _bounds(gate: GateResult) -> tuple[str, ...]:
    if gate.ci is None:
        return ()
    if _is_rate(gate):
        return (interval(gate.ci),)
    return (f"{decimal(gate.ci[0])}–{decimal(gate.ci[1])}",)
