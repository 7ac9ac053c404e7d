"""`vectomy plan MODEL` and `vectomy verify CHECKPOINT`: what an edit would touch, and what one did."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vectomy.cli.options import AsJson, Model
from vectomy.cli.progress_bars import bars
from vectomy.core.progress import duration

if TYPE_CHECKING:
    from vectomy.edits.export import Receipt
    from vectomy.workflows.plan import Plan

__all__ = ["print_receipt", "register", "source_of"]


def register(app: typer.Typer) -> None:
    app.command("plan")(_plan)
    app.command("verify")(_verify)


def source_of(model: str) -> Path:
    """The folder of a model that is named on the command line; a type that the table lacks is
    probed.
    """
    from vectomy.models import probe_architecture
    from vectomy.models.demo import model_folder

    folder = model_folder(model, bars)
    probe_architecture(folder, progress=bars)
    return folder


def _plan(
    model: Model,
    embeddings: Annotated[bool, typer.Option(help="Edit token and position embeddings too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say which writers an edit would touch, and what memory, disk and time it takes; reads no
    weights.
    """
    from vectomy.workflows.plan import plan

    found = plan(source_of(model), embeddings=embeddings)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print_plan(found)


def _print_plan(found: Plan) -> None:
    table = Table(
        title=f"{found.model_type}: {found.layers} layers of width {found.d_model}", title_justify="left"
    )
    for column, justify in (
        ("writer", "left"),
        ("component", "left"),
        ("layers", "left"),
        ("axis", "right"),
        ("through", "left"),
        ("parameters", "right"),
    ):
        table.add_column(column, justify="right" if justify == "right" else "left", overflow="fold")
    groups: dict[tuple[str, ...], list[tuple[int | None, int]]] = {}
    for row in found.writers:
        norms = ", ".join(_collapsed(norm).rpartition(".N.")[2] for norm in row["through_norm"])
        key = (_collapsed(row["name"]), row["component"], str(row["axis"]), norms)
        groups.setdefault(key, []).append((row["layer"], row["parameters"]))
    for (name, component, axis, norms), rows in groups.items():
        layers = _ranges([layer for layer, _ in rows if layer is not None])
        table.add_row(name, component, layers, axis, norms, f"{sum(count for _, count in rows):,}")
    console = Console()
    console.print(table)
    _print_left(console, found.left)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    how = "whole" if found.fits else "block by block, for it is larger than the free memory"
    job = "collect_whole" if found.fits else "collect_streamed"
    console.print(
        f"an edit of all of them changes {found.parameters:,} parameters\n"
        f"bake     {_size(found.memory_bytes)} of memory, {_size(found.disk_bytes)} of disk, some {duration(found.seconds['bake'])}\n"
        f"collect  {_size(found.memory[job])} of memory ({how}), some {duration(found.seconds['collect'])} for 512 prompts of 64 tokens",
        highlight=False,
        soft_wrap=True,
    )


def _verify(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="The edited model: a folder or a Hub id.")
    ],
    edit: Annotated[Path, typer.Option(metavar="EDIT", help="The Edit that it is said to carry.")],
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The unedited model; with it partial strengths are judged too."),
    ] = None,
    run: Annotated[bool, typer.Option(help="Run the model and measure its residual stream.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the random texts that are run.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure on any checkpoint what an Edit is said to have done to it; exit status 1 if a writer
    does not carry it.
    """
    from vectomy.edits.edit import Edit
    from vectomy.metrics.verify import verify

    loaded = Edit.load(edit / "edit.safetensors" if edit.is_dir() else edit)
    source = None if base is None else source_of(base)
    receipt = verify(
        source_of(checkpoint), loaded, base=source, run=run, device=device, seed=seed, progress=bars
    )
    print_receipt(receipt, as_json)
    if receipt.failures:
        raise typer.Exit(1)


def print_receipt(receipt: Receipt, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(receipt.to_json(), indent=2))
        return
    console = Console()
    console.print(
        f"{len(receipt.edited)} tensors edited ({receipt.parameters:,} parameters), {len(receipt.left)} left",
        highlight=False,
    )
    _print_left(console, receipt.left)
    for note in receipt.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    if receipt.rounding:
        worst = max(receipt.rounding, key=lambda name: receipt.rounding[name])
        console.print(
            f"stored again in their own format: {len(receipt.rounding)} weights, error at most {receipt.rounding[worst]:.2g} ('{worst}')",
            highlight=False,
            soft_wrap=True,
        )
    if receipt.residue:
        worst = max(receipt.residue, key=lambda name: receipt.residue[name])
        console.print(
            f"of what the edit takes away, rounding puts back at most {receipt.residue[worst]:.2g} ('{worst}')",
            highlight=False,
            soft_wrap=True,
        )
    if receipt.projection is not None:
        at = receipt.projection.index(max(receipt.projection))
        where = "entering the first block" if at == 0 else f"leaving layer {at - 1}"
        console.print(
            f"largest projection of the stream on the directions: {max(receipt.projection):.2g} of its norm, {where} ({receipt.how})",
            highlight=False,
            soft_wrap=True,
        )


def _print_left(console: Console, left: Iterable[tuple[str, str]]) -> None:
    """Names of one pattern and one reason on one line; a tower with many parts as one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in left:
        groups.setdefault((_collapsed(name), NUMBER.sub("#", reason)), []).append(reason)
    tops = Counter((".".join(name.split(".")[:2]), reason) for name, reason in groups)
    lines: dict[tuple[str, str], list[str]] = {}
    for (name, reason), said in groups.items():
        top = ".".join(name.split(".")[:2])
        whole = tops[top, reason] > SHOWN and "#" not in reason
        lines.setdefault((f"{top}.*" if whole else name, reason), []).extend(said)
    for (name, _), said in lines.items():
        many = f" ({len(said)} tensors)" if len(said) > 1 else ""
        console.print(
            f"  left {name}{many}: {_one_reason(said)}", highlight=False, soft_wrap=True, markup=False
        )


NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
# More parts of one tower than this are shown as one line.
SHOWN = 6


def _one_reason(said: list[str]) -> str:
    """Reasons that differ in a number as one, with the range of it."""
    if len(set(said)) == 1:
        return said[0]
    numbers = [float(found[0]) for reason in said if (found := NUMBER.search(reason))]
    return NUMBER.sub(f"{min(numbers):g} to {max(numbers):g}", said[0], count=1)


def _collapsed(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".N", name)


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
