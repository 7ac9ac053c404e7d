"""`vectomy push PATH OWNER/NAME`: publishes an edit on the Hugging Face Hub."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from vectomy.cli.help import PUBLISH, SectionedCommand
from vectomy.cli.options import unpack
from vectomy.cli.progress_bars import bars, library_bars
from vectomy.cli.terminal import log_line, open_console
from vectomy.cli.vocabulary import EDIT, PUBLISHED, AsJson, Yes, base_option, option
from vectomy.core.byte_count import write_bytes
from vectomy.core.config import OUTPUT
from vectomy.core.errors import HubError

if TYPE_CHECKING:
    from vectomy.hub.push import Push

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("push", cls=SectionedCommand, rich_help_panel=PUBLISH)(unpack(PushOptions)(_push))


@dataclass(frozen=True)
class PushOptions:
    """The arguments and options of `vectomy push`."""

    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="An edited checkpoint, an adapter, a run folder, an Edit file, a GGUF file, or a folder of "
            "GGUF files.",
        ),
    ]
    repo_id: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME", help="The repository on the Hub; it is created if it does not exist."
        ),
    ]
    public: Annotated[
        bool,
        option("--public", help="Create a public repository, or push to a public one.", panel=PUBLISHED),
    ] = False
    revision: Annotated[
        str,
        option(
            "--revision",
            help="Revision on the Hub: the branch to push to; it is created if it does not exist.",
            panel=PUBLISHED,
            metavar="BRANCH",
        ),
    ] = "main"
    base: Annotated[
        str | None, base_option("its name on the Hub, if it was a local folder.", "OWNER/NAME")
    ] = None
    source: Annotated[
        str | None,
        option(
            "--from",
            help="The run or Edit that PATH was made from, if PATH does not say (GGUF).",
            panel=EDIT,
            metavar="RUN|EDIT",
        ),
    ] = None
    part: Annotated[
        Literal["checkpoint", "adapter", "edit", "gguf"] | None,
        option("--part", help="Part of a run to push; the checkpoint if there is one.", panel=PUBLISHED),
    ] = None
    evaluation: Annotated[
        list[Path] | None,
        option(
            "--evaluation",
            help="An evaluation.json, or its folder, for the card; may be repeated.",
            panel=PUBLISHED,
            metavar="FILE",
        ),
    ] = None
    card: Annotated[
        Path | None,
        option(
            "--card", help="Publish this card instead of the generated one.", panel=PUBLISHED, metavar="FILE"
        ),
    ] = None
    replace: Annotated[
        bool, option("--replace", help="Delete the other files of the repository.", panel=PUBLISHED)
    ] = False
    allow_paths: Annotated[
        bool,
        option("--allow-paths", help="Publish files that contain paths of a machine.", panel=PUBLISHED),
    ] = False
    dry_run: Annotated[
        bool,
        option(
            "--dry-run",
            help="Change nothing: show the files that would be sent, and the card, without a connection or a "
            "token.",
            panel=OUTPUT,
        ),
    ] = False
    yes: Yes = False
    as_json: AsJson = False


def _push(options: PushOptions) -> None:
    """Publish an edit and its card on the Hugging Face Hub; private unless --public is given. The
    same command resumes an interrupted push.

    The token is that of `hf auth login` or HF_TOKEN. Every file is scanned for tokens and for paths
    of this machine before anything is sent.
    """
    from vectomy.hub.push import prepare, send

    push = prepare(
        options.path,
        options.repo_id,
        revision=options.revision,
        allow_paths=options.allow_paths,
        progress=bars,
        base_model=options.base,
        source=options.source,
        form=options.part,
        evaluations=tuple(options.evaluation or ()),
        card=options.card,
        offline=options.dry_run,
    )
    console = open_console(stderr=True)
    _print_plan(console, push, options.public, options.replace)
    if options.dry_run:
        if options.as_json:
            typer.echo(json.dumps(_planned(push), indent=2, ensure_ascii=False))
        else:
            typer.echo(_card_of(push))
        return
    public = _confirm(push, options)
    with library_bars(console.is_terminal):
        sent = send(
            push,
            public=public,
            replace=options.replace,
            log=log_line,
        )
    if options.as_json:
        typer.echo(json.dumps(vars(sent), indent=2))
        return
    branch = f", branch {options.revision}" if options.revision != "main" else ""
    visibility = "private" if sent.private else "public"
    typer.echo(
        f"{sent.files} files are on the Hub as they are here: {options.repo_id}{branch} ({visibility})\n"
        f"{sent.url}"
    )


def _confirm(push: Push, options: PushOptions) -> bool:
    """Whether the push may be public, asked at a terminal.

    Raises:
        HubError: the answer is no, or nobody can be asked about a public repository.
    """
    headless = options.yes or not sys.stdin.isatty() or not sys.stderr.isatty()
    if push.destination.private is False and not options.public:
        if headless or not typer.confirm(f"{options.repo_id} is public. Publish there?", err=True):
            raise HubError(
                f"'{options.repo_id}' is public; nothing was sent. Publish there with --public, make it "
                "private in its settings, or choose another name"
            )
        return True
    if not headless and not typer.confirm("Send?", default=True, err=True):
        raise HubError("nothing was sent")
    return options.public


def _print_plan(console: Console, push: Push, public: bool, replace: bool) -> None:
    """The files that will be sent, and the repository."""
    upload, there = push.upload, push.destination
    table = Table(
        title=f"{upload.kind} for {there.repo_id}, branch {there.revision} ({push.visibility(public)})",
        title_justify="left",
    )
    table.add_column("file")
    table.add_column("size", justify="right")
    for item in upload.items:
        table.add_row(item.name, write_bytes(item.size))
    table.add_row(f"{len(upload.items)} files", write_bytes(upload.bytes), end_section=True)
    console.print(table)
    sent = {item.name for item in upload.items}
    others = [name for name in there.files if name not in sent and name != ".gitattributes"]
    lines = [f"base    {upload.base_model}"]
    lines += [f"stays here  {name}: {reason}" for name, reason in upload.left]
    if others:
        fate = "will be deleted" if replace else "stay there (--replace deletes them)"
        names = ", ".join(others[:8]) + (" …" if len(others) > 8 else "")
        lines.append(f"in the repository already, and {fate}: {names}")
    if public and there.private:
        lines.append("note    the repository stays private; its settings on the Hub make it public")
    lines += [f"note    {note}" for note in upload.notes]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _card_of(push: Push) -> str:
    card = next(item.source for item in push.upload.items if item.name == "README.md")
    return card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")


def _planned(push: Push) -> dict[str, object]:
    return {
        "repository": push.destination.repo_id,
        "revision": push.destination.revision,
        "exists": push.destination.exists if push.looked else None,
        "private": push.destination.private,
        "kind": push.upload.kind,
        "files": {item.name: item.size for item in push.upload.items},
        "card": _card_of(push),
        "left": dict(push.upload.left),
        "notes": list(push.upload.notes),
    }
