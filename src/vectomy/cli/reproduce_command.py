"""`vectomy reproduce WHAT`: rebuilds a published edit and compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vectomy.cli.help import PUBLISH, SectionedCommand
from vectomy.cli.progress_bars import bars, library_bars
from vectomy.cli.terminal import open_console
from vectomy.cli.vocabulary import (
    EDIT,
    PUBLISHED,
    AsJson,
    ThreadCount,
    TrustRemoteCode,
    base_option,
    option,
    out_option,
)
from vectomy.core.config import SEARCH

if TYPE_CHECKING:
    from vectomy.workflows.reproduce import Reproduction

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("reproduce", cls=SectionedCommand, rich_help_panel=PUBLISH)(_reproduce)


def _reproduce(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CARD|EDIT|FOLDER|OWNER/NAME",
            help="A model card, an Edit file, a run, checkpoint or adapter folder, or a repository.",
        ),
    ],
    base: Annotated[str | None, base_option("needed if it is not available under its recorded name.")] = None,
    against: Annotated[
        Path | None,
        option(
            "--against",
            help="A checkpoint or adapter folder to compare with, if nothing else is recorded.",
            panel=EDIT,
            metavar="DIR",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        option(
            "--revision",
            help="Revision on the Hub: the branch or commit to rebuild.",
            panel=PUBLISHED,
            metavar="BRANCH",
        ),
    ] = None,
    from_scratch: Annotated[
        bool,
        option("--from-scratch", help="Repeat the search too, and compare its Edit.", panel=SEARCH),
    ] = False,
    prompt_folder: Annotated[
        Path | None,
        option(
            "--prompt-folder",
            help="With --from-scratch: folder of the search's prompt files. [default: the current one]",
            panel=SEARCH,
            metavar="DIR",
        ),
    ] = None,
    out: Annotated[
        Path | None, out_option("DIR", "a new folder for the rebuilt model. [default: one that is deleted]")
    ] = None,
    threads: ThreadCount = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild an edited model from its base and compare it with the published one: MATCH, or
    DIFFERS with exit status 1.
    """
    from vectomy.workflows.reproduce import reproduce

    with library_bars(sys.stderr.isatty()):
        result = reproduce(
            what,
            base=base,
            against=against,
            revision=revision,
            from_scratch=from_scratch,
            prompts=prompt_folder,
            out=out,
            trust_remote_code=trust_remote_code,
            progress=bars,
        )
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        _print_result(result)
    if not result.matches:
        raise typer.Exit(1)


SHOWN = 20


def _print_result(result: Reproduction) -> None:
    done = f"{result.compared} tensors of the {result.form} against {result.against}"
    lines = [f"{'MATCH' if result.matches else 'DIFFERS'}: {result.what}: {done}"]
    lines += [f"  {difference}" for difference in result.differences[:SHOWN]]
    if len(result.differences) > SHOWN:
        lines.append(f"  and {len(result.differences) - SHOWN} more (--json lists them)")
    lines.append(f"base      {result.base}\nedit      {result.edit_sha256}")
    if result.searched and not any(
        difference.kind in ("edit", "prompts") for difference in result.differences
    ):
        lines.append("search    done again; it found the same Edit, byte for byte")
    lines += [
        f"version   {name} {then} recorded, {here} here" for name, (then, here) in result.versions.items()
    ]
    lines += [f"note      {note}" for note in result.notes]
    open_console().print("\n".join(lines), highlight=False, soft_wrap=True)
