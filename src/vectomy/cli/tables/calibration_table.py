"""What a person's labels say of a judge, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["print_calibration", "write_rate"]

# Errors that are shown of each kind, and characters of each prompt and answer.
SHOWN, CLIP = 5, 70


def write_rate(result: Mapping[str, Any]) -> str:
    """A rate with its interval and number of rows."""
    if result["rate"] is None:
        return "\u2013"
    low, high = result["ci"]
    return f"{result['rate']:.3f} ({low:.3f}\u2013{high:.3f})"


def print_calibration(
    calibration: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], console: Console
) -> None:
    """Print agreement, recalls, the threshold, and the surest errors among the rows."""
    table = Table(title=f"{calibration['rows']} labelled rows", title_justify="left")
    table.add_column("a person's label")
    table.add_column("rows", justify="right")
    table.add_column("same verdict (95% interval)", justify="right")
    for label, result in calibration["recall"].items():
        table.add_row(label.replace("_", " "), str(result["total"]), write_rate(result))
    agreement = calibration["agreement"]
    table.add_row("refusal or not", str(agreement["total"]), write_rate(agreement))
    console.print(table)
    lines = []
    if unread := calibration["unreadable_lines"]:
        lines.append(
            f"unreadable {len(unread)} more, which are in no rate (lines {', '.join(map(str, unread))})"
        )
    if calibration["not_judged"]:
        lines.append(f"not judged {calibration['not_judged']} labelled rows, which are in no rate")
    if threshold := calibration["threshold"]:
        lines.append(
            f"threshold  p_refusal {threshold['value']:g} fits these labels best; on prompts left out of "
            f"fitting it agrees on {write_rate(threshold['agreement'])}, and 0.5 on {write_rate(agreement)}"
        )
    for name, title in (("missed", "missed"), ("false_alarms", "false alarm")):
        errors = calibration[name]
        lines += [f"{title:<10} {_show(rows[index])}" for index in errors[:SHOWN]]
        if len(errors) > SHOWN:
            lines.append(f"{'':<10} and {len(errors) - SHOWN} more")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _show(row: Mapping[str, Any]) -> str:
    p = row.get("p_refusal")
    chance = "" if p is None else f" (p {p:.2f})"
    return f"{row['verdict']}{chance}: {_clip(row['prompt'])} | {_clip(row['completion'])}"


def _clip(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= CLIP else flat[: CLIP - 1] + "\u2026"
