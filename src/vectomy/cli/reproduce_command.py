"""`vectomy reproduce WHAT`: rebuilds a published edit and compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vectomy.cli.options import AsJson
from vectomy.cli.progress_bars import bars, library_bars

if TYPE_CHECKING:
    from vectomy.workflows.reproduce import Reproduction

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("reproduce")(_reproduce)


def _reproduce(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CARD|EDIT|FOLDER|OWNER/NAME",
            help="A model card, an Edit file, a run, checkpoint or adapter folder, or a repository.",
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The base, where it is not to be had under its recorded name.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A checkpoint or adapter folder to compare with, where nothing else is recorded.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(metavar="BRANCH", help="Of a repository, the branch or commit.", show_default=False),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Do the search again too, and compare the Edit it finds.")
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="--from-scratch: where the search's prompt files are (here).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the rebuilt model in this new folder.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild an edited model from its base and say MATCH, or what differs from what was published;
    exit status 1 if anything does.
    """
    from vectomy.workflows.reproduce import reproduce

    with library_bars(sys.stderr.isatty()):
        found = reproduce(
            what,
            base=base,
            against=against,
            revision=revision,
            from_scratch=from_scratch,
            prompts=prompts,
            out=out,
            progress=bars,
        )
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _say(found)
    if not found.matches:
        raise typer.Exit(1)


SHOWN = 20


def _say(found: Reproduction) -> None:
    done = f"{found.compared} tensors of the {found.form} against {found.against}"
    lines = [f"{'MATCH' if found.matches else 'DIFFERS'}: {found.what}: {done}"]
    lines += [f"  {difference}" for difference in found.differences[:SHOWN]]
    if len(found.differences) > SHOWN:
        lines.append(f"  and {len(found.differences) - SHOWN} more (--json lists them)")
    lines.append(f"base      {found.base}\nedit      {found.edit_sha256}")
    if found.searched and not any(difference.kind in ("edit", "prompts") for difference in found.differences):
        lines.append("search    done again; it found the same Edit, byte for byte")
    lines += [
        f"version   {name} {then} recorded, {here} here" for name, (then, here) in found.versions.items()
    ]
    lines += [f"note      {note}" for note in found.notes]
    Console().print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
