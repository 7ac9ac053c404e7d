"""`vectomy push PATH OWNER/NAME`: publishes an edit on the Hugging Face Hub."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vectomy.cli.options import AsJson, Yes
from vectomy.cli.progress_bars import bars, library_bars
from vectomy.core.errors import HubError

if TYPE_CHECKING:
    from vectomy.hub.push import Push

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("push")(_push)


class PublishedPart(StrEnum):
    checkpoint = "checkpoint"
    adapter = "adapter"
    edit = "edit"
    gguf = "gguf"


def _push(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="An edited checkpoint, an adapter or a run folder, an Edit file, or a GGUF file (or a folder of them).",
        ),
    ],
    repo_id: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME", help="The repository on the Hub; it is made if it does not exist."
        ),
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public, or push to one that is.")
    ] = False,
    revision: Annotated[
        str, typer.Option(metavar="BRANCH", help="The branch to push to; it is made if it does not exist.")
    ] = "main",
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="The base on the Hub, where it was a folder here.", show_default=False
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN|EDIT",
            help="The run folder or Edit that PATH was made of, where it does not say (GGUF).",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        PublishedPart | None,
        typer.Option(
            "--as", help="Of a run folder: what to push (the checkpoint if there is one).", show_default=False
        ),
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="An evaluation.json, or its folder, for the card; may be repeated.",
            show_default=False,
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Publish this card, instead of the one that is written.", show_default=False
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete what else the repository holds.")
    ] = False,
    allow_paths: Annotated[
        bool, typer.Option("--allow-paths", help="Publish files although they hold paths of a machine.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Publish an edit on the Hugging Face Hub, with its card: private unless asked. An interrupted
    push goes on with the same command.

    The token is that of `hf auth login` or HF_TOKEN. Every file is looked through for tokens and
    paths of this machine before.
    """
    from vectomy.hub.push import prepare, send

    headless = yes or not sys.stdin.isatty() or not sys.stderr.isatty()
    push = prepare(
        path,
        repo_id,
        revision=revision,
        allow_paths=allow_paths,
        progress=bars,
        base_model=base_model,
        source=source,
        form=None if part is None else part.value,
        evaluations=tuple(evaluation or ()),
        card=card,
    )
    console = Console(stderr=True)
    _show(console, push, public, replace)
    if dry_run:
        if as_json:
            typer.echo(json.dumps(_planned(push), indent=2))
        return
    if push.destination.private is False and not public:
        if headless or not typer.confirm(f"{repo_id} is public. Publish there?", err=True):
            raise HubError(
                f"'{repo_id}' is public; nothing was sent. Say --public to publish there, make it private in its settings, or choose another name"
            )
        public = True
    elif not headless and not typer.confirm("Send?", default=True, err=True):
        raise HubError("nothing was sent")
    with library_bars(console.is_terminal):
        sent = send(
            push,
            public=public,
            replace=replace,
            log=lambda line: console.print(line, highlight=False, markup=False),
        )
    if as_json:
        typer.echo(json.dumps(vars(sent), indent=2))
        return
    where = f", branch {revision}" if revision != "main" else ""
    typer.echo(
        f"{sent.files} files are on the Hub as they are here: {repo_id}{where} ({'private' if sent.private else 'public'})\n{sent.url}"
    )


def _show(console: Console, push: Push, public: bool, replace: bool) -> None:
    """What will be sent, and where to."""
    upload, there = push.upload, push.destination
    table = Table(
        title=f"{upload.kind} for {there.repo_id}, branch {there.revision} ({push.visibility(public)})",
        title_justify="left",
    )
    table.add_column("file")
    table.add_column("size", justify="right")
    for item in upload.items:
        table.add_row(item.name, _size(item.size))
    table.add_row(f"{len(upload.items)} files", _size(upload.bytes), end_section=True)
    console.print(table)
    sent = {item.name for item in upload.items}
    others = [name for name in there.files if name not in sent and name != ".gitattributes"]
    lines = [f"base    {upload.base_model}"]
    lines += [f"stays here  {name}: {reason}" for name, reason in upload.left]
    if others:
        fate = "will be deleted" if replace else "stay there (--replace deletes them)"
        lines.append(
            f"in the repository already, and {fate}: {', '.join(others[:8])}{' …' if len(others) > 8 else ''}"
        )
    if public and there.private:
        lines.append("note    the repository is private and stays so; its settings on the Hub make it public")
    lines += [f"note    {note}" for note in upload.notes]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _planned(push: Push) -> dict[str, object]:
    return {
        "repository": push.destination.repo_id,
        "revision": push.destination.revision,
        "exists": push.destination.exists,
        "private": push.destination.private,
        "kind": push.upload.kind,
        "files": {item.name: item.size for item in push.upload.items},
        "left": dict(push.upload.left),
        "notes": list(push.upload.notes),
    }


def _size(count: int) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count} B"
