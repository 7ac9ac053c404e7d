"""The result of a healing as a table in the terminal."""

from __future__ import annotations

from rich.table import Table

from vectomy.cli.tables.cells import text_cell
from vectomy.cli.terminal import open_console
from vectomy.core.json_value import JsonObject
from vectomy.core.results import HealingResults
from vectomy.report import healing_rows

__all__ = ["print_healing"]


def print_healing(summary: JsonObject, folder: str) -> None:
    """Every number before the edit, after it and after healing; then the conclusion in words."""
    console = open_console()
    results = HealingResults.from_json(summary)
    table = Table(title=f"{results.behaviour} in {results.model}: healing", title_justify="left")
    table.add_column("held-out prompts")
    for name in results.measured:
        table.add_column(name, justify="right")
    for label, cells in healing_rows(summary):
        table.add_row(text_cell(label), *cells)
    console.print(table)
    console.print("\n".join(_lines(results, folder)), highlight=False, soft_wrap=True)


def _lines(results: HealingResults, folder: str) -> list[str]:
    config, judge, receipt = results.config, results.judge, results.receipt
    training = results.training
    steps = (
        "trained elsewhere"
        if training is None
        else f"{config.get('objective', 'trained')} on {results.rows.pairs} rows, {training.steps} steps, "
        f"{training.machine.method}"
    )
    lines = [
        f"result     {results.sentence}",
        f"training   {steps}; judge {judge.name} {judge.version}",
    ]
    if receipt.learned_along is not None:
        kept = "protected" if receipt.projected else "not protected"
        lines.append(
            f"directions {kept}: in {receipt.learned_in} edited writers, at most "
            f"{receipt.learned_along:.2g} of the learned change lies along the removed directions"
        )
    if verified := receipt.verified:
        stream = (
            "the residual stream was not measured"
            if verified.max_projection is None
            else f"at most {verified.max_projection:.2g} of the stream's length lies along the directions"
        )
        failed = f"; {verified.reason}" if verified.status == "not_carried" else ""
        lines.append(
            f"verified   {verified.carried} tensors carry the edit, {len(verified.failures)} do not; "
            f"{stream}{failed}"
        )
    return [*lines, f"written    {folder}: {results.learned}, report.html, summary.json"]
