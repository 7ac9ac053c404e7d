"""`vectomy push PATH OWNER/NAME` and `vectomy reproduce WHAT`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vectomy.cli.options import AsJson, Yes
from vectomy.cli.progress_bars import bars
from vectomy.core.errors import HubError

if TYPE_CHECKING:
    from vectomy.hub.push import Push
    from vectomy.workflows.reproduce import Reproduction

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("push")(_push)
    app.command("reproduce")(_reproduce)


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
    with _library_bars(console.is_terminal):
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


@contextmanager
def _library_bars(wanted: bool) -> Iterator[None]:
    """The bars of the Hub's library within one file, in a terminal alone."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    if not wanted:
        disable_progress_bars()
    try:
        yield
    finally:
        if not before and not wanted:
            enable_progress_bars()


def _size(count: int) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count} B"


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

    with _library_bars(sys.stderr.isatty()):
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
