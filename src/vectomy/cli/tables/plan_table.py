"""The plan of an edit as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from vectomy.cli.tables.receipt_table import name_pattern, print_left
from vectomy.cli.terminal import open_console
from vectomy.core.progress import duration

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

    from vectomy.workflows.plan import Plan

__all__ = ["print_plan"]


def print_plan(plan: Plan, recipe: str = "gradient") -> None:
    """Writers of one pattern on one line, then the tensors left out, notes, and costs.

    Args:
        recipe: of the run that its stages are counted for.
    """
    groups: dict[tuple[str, ...], list[tuple[int | None, int]]] = {}
    for row in plan.writers:
        norms = ", ".join(name_pattern(norm).rpartition(".N.")[2] for norm in row.through_norm)
        key = (name_pattern(row.name), row.component, str(row.axis), norms)
        groups.setdefault(key, []).append((row.layer, row.parameters))
    # Of most models no writer has a norm behind it.
    through = [norms for *_, norms in groups if norms]
    table = Table(box=None, pad_edge=False)
    for column in ("writer", "component", "layers", "axis", *(["through"] if through else []), "parameters"):
        # A name that is cut cannot be copied.
        table.add_column(
            column,
            justify="right" if column in ("axis", "parameters") else "left",
            no_wrap=column != "layers",
        )
    for (name, component, axis, norms), rows in groups.items():
        layers = _ranges([layer for layer, _ in rows if layer is not None])
        count = f"{sum(count for _, count in rows):,}"
        table.add_row(name, component, layers, axis, *([norms] if through else []), count)
    console = open_console()
    console.print(f"{plan.model_type}: {plan.layers} layers of width {plan.d_model}", highlight=False)
    console.width = max(console.width, table.__rich_measure__(console, _unbounded(console)).maximum)
    console.print(table, crop=False)
    print_left(console, plan.left)
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    console.print("\n".join(_costs(plan, recipe)), highlight=False, soft_wrap=True)
    console.print(_stages(plan), highlight=False)


def _unbounded(console: Console) -> ConsoleOptions:
    return console.options.update(width=1000)


def _costs(plan: Plan, recipe: str) -> list[str]:
    how = "whole" if plan.fits else "block by block, because it is larger than the free memory"
    work = plan.work
    run = (
        f"a run with recipe {recipe} on {work.fit} + {work.search} + {work.test} prompts a side, of "
        f"{work.shared + work.own} tokens, and answers of {work.answer_tokens} tokens takes here"
    )
    return [
        f"an edit of all of them changes {plan.parameters:,} parameters; the model is read {how}",
        f"the edited checkpoint takes {_size(plan.disk_bytes)} of disk",
        run,
    ]


def _stages(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for column in ("time", "memory", *(["on the card"] if _on_card(plan) else [])):
        table.add_column(column, justify="right")
    for stage in plan.stages:
        card = [] if stage.device_bytes is None else [_size(stage.device_bytes)]
        table.add_row(stage.name, duration(stage.seconds), _size(stage.memory_bytes), *card)
    peak = max(stage.device_bytes or 0 for stage in plan.stages)
    total = sum(stage.seconds for stage in plan.stages)
    memory = max(stage.memory_bytes for stage in plan.stages)
    table.add_row("all", duration(total), _size(memory), *([_size(peak)] if _on_card(plan) else []))
    return table


def _on_card(plan: Plan) -> bool:
    return any(stage.device_bytes is not None for stage in plan.stages)


def _ranges(numbers: list[int]) -> str:
    """0-3, 5, 7-9"""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
