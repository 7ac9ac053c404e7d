"""`vectomy compare A B`: how two checkpoints differ, and the Edit that turns one into the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vectomy.cli.help import MEASURE, SectionedCommand
from vectomy.cli.output_folder import write_file
from vectomy.cli.progress_bars import bars
from vectomy.cli.terminal import open_console
from vectomy.cli.vocabulary import AsJson, Overwrite, ThreadCount, TrustRemoteCode, out_option

if TYPE_CHECKING:
    from vectomy.comparison import Comparison, WriterDifference

__all__ = ["register"]

# Rows of tensors that no edit explains.
SHOWN = 12


def register(app: typer.Typer) -> None:
    app.command("compare", cls=SectionedCommand, rich_help_panel=MEASURE)(_compare)


def _compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="The base: a folder, a run (its checkpoint), a Hub id, a GGUF file, or `demo`."
        ),
    ],
    b: Annotated[
        str, typer.Argument(metavar="B", help="The checkpoint that was made from it, named in the same way.")
    ],
    out: Annotated[Path | None, out_option("FILE", "the Edit that turns A into B, as a new file.")] = None,
    threads: ThreadCount = "auto",
    trust_remote_code: TrustRemoteCode = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """List the tensors that differ between two checkpoints, and say whether a directional edit
    explains the difference.

    Exit status 0 whatever the result; 1 if --out is given and no Edit explains the difference.
    """
    from vectomy.comparison import compare
    from vectomy.core.errors import EditError
    from vectomy.core.output_path import check_file_output
    from vectomy.workflows.named_model import open_model

    if out is not None:
        check_file_output(out, a, b)
    models = [open_model(name, bars, trust_remote_code=trust_remote_code) for name in (a, b)]
    result = compare(*models, progress=bars)
    # The comparison is told first: it is not lost where the file may not be written.
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        _print(result)
    edit = result.edit
    if out is not None and edit is not None:
        out = write_file(lambda file, replace: edit.save(file, overwrite=replace), out, overwrite)
        if not as_json:
            typer.echo(f"written to {out}")
    if out is not None and result.edit is None:
        raise EditError(f"there is no Edit to write: {result.summary}")


def _print(result: Comparison) -> None:
    console = open_console()
    if result.writers:
        table = Table(title="what writes to the stream", title_justify="left")
        for column in ("writer", "difference", "rank", "strengths", "norm kept", "along shared", "exact"):
            table.add_column(
                column, justify="left" if column in ("writer", "norm kept") else "right", overflow="fold"
            )
        for row in result.writers:
            table.add_row(*_cells(row))
        console.print(table)
    rest = [row for row in result.differing if not row.explained and not row.writes]
    lines = [f"differs  {row.name}: {row.relative:.2g} of its length" for row in rest[:SHOWN]]
    lines += [f"differs  and {len(rest) - SHOWN} more"] if len(rest) > SHOWN else []
    for side, names in (("A", result.only_in_a), ("B", result.only_in_b)):
        lines += [f"only in {side}  {name}" for name in names[:SHOWN]]
        lines += [f"only in {side}  and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    lines += [f"note: {note}" for note in result.notes]
    lines.append(f"{result.same} tensors are the same, {len(result.differing)} differ")
    if result.explained:
        shares = ", ".join(f"{share:.1%}" for share in result.explained[:4])
        lines.append(f"the first 1, 2, ... directions of all writers explain {shares} of their difference")
    if result.equal is not None and result.within is not None:
        lines.append(
            f"baking the Edit into A gives B: {result.equal:.1%} of the edited numbers exactly, "
            f"{result.within:.1%} to within a step of their format, at most {result.worst:.3g} steps away"
        )
    lines.append(result.summary)
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _cells(row: WriterDifference) -> tuple[str, ...]:
    writer = row.component if row.layer is None else f"layer {row.layer} {row.component}"
    return (
        writer if row.expert is None else f"{writer} expert {row.expert}",
        f"{row.relative:.2g}",
        "full" if row.rank is None else str(row.rank),
        "–" if row.strengths is None else ", ".join(f"{value:.3f}" for value in row.strengths),
        row.norm or "–",
        "–" if row.along_shared is None else f"{row.along_shared:.1%}",
        "–" if row.equal is None else f"{row.equal:.1%}",
    )
