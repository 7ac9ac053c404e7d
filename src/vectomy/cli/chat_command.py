"""`vectomy chat EDIT`: base and edited answers side by side, at a strength that can be changed."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.terminal import open_console
from vectomy.cli.vocabulary import (
    MEASURES,
    Edit,
    ThreadCount,
    TrustRemoteCode,
    base_option,
    option,
    strength_option,
)
from vectomy.core.config import MACHINE, LoadIn
from vectomy.core.errors import ModelError, PromptError, UsageError

__all__ = ["register"]

HELP = (
    "/strength X   strength of the edit (0 none, 1 as found, below 0 the opposite, 2 reflects)\n"
    "/tokens N     length of the answers\n/help  /quit"
)


def register(app: typer.Typer) -> None:
    app.command("chat", cls=SectionedCommand, rich_help_panel=JOB)(_chat)


def _chat(
    edit: Edit,
    base: Annotated[
        str | None, base_option("needed if the Edit does not name it, or names a folder that has moved.")
    ] = None,
    strength: Annotated[float, strength_option("the first one; `/strength X` changes it.")] = 1.0,
    answer_tokens: Annotated[
        int, option("--answer-tokens", help="Greedy tokens in each answer.", panel=MEASURES, min=1)
    ] = 128,
    load_in: Annotated[
        LoadIn | None,
        option(
            "--load-in",
            help="Quantise the weights with bitsandbytes while the model runs. [default: as in its run]",
            panel=MACHINE,
        ),
    ] = None,
    threads: ThreadCount = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk to the base and the edited model side by side. Each line starts a new conversation.
    Lines may come from a pipe.
    """
    console = open_console()
    talk = _Talk(*_open_pair(edit, base, trust_remote_code, load_in), console, strength, answer_tokens)
    console.print(HELP, highlight=False)
    for line in _lines(console):
        if line in ("/quit", "/exit"):
            break
        talk.hear(line)


def _lines(console: Console) -> Iterator[str]:
    while True:
        try:
            line = console.input("> ") if sys.stdin.isatty() else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            return
        if not line and not sys.stdin.isatty():
            return
        if line.strip():
            yield line.strip()


def _open_pair(
    name: str, base: str | None, trust_remote_code: bool, load_in: LoadIn | None
) -> tuple[Any, Any]:
    """The live base and the Edit. A run's own settings load its model; its right to run code does
    not count here.
    """
    from vectomy.cli.progress_bars import bars
    from vectomy.core.config import Runtime
    from vectomy.models import load_model, missing_quantiser
    from vectomy.workflows.named_model import base_named_by, kind_of, open_base, open_edit
    from vectomy.workflows.preflight import refuse
    from vectomy.workflows.trait_config import read_run_config

    refuse(missing_quantiser(load_in))
    edit = open_edit(name)
    model = base or base_named_by(name)
    if model is None:
        raise UsageError(
            f"{name} was made for {edit.base}, which is not at hand; give that model with --base MODEL"
        )
    runtime = read_run_config(Path(name)).runtime if kind_of(name) == "run" else Runtime()
    folder = open_base(model, bars, trust_remote_code=trust_remote_code)
    chat = load_model(
        folder, runtime=runtime, trust_remote_code=trust_remote_code, load_in=load_in, name=model
    )
    edit.check_base(chat.checkpoint)
    return chat, edit


class _Talk:
    """The loaded model, the edit, the strength and the length of answers."""

    def __init__(self, chat: Any, edit: Any, console: Console, strength: float, tokens: int) -> None:
        self.chat, self.edit, self.console = chat, edit, console
        self.strength, self.tokens = strength, tokens

    def hear(self, line: str) -> None:
        command, _, value = line.partition(" ")
        if command in ("/strength", "/tokens"):
            try:
                if command == "/strength":
                    if not math.isfinite(float(value)):
                        raise ValueError
                    self.strength = float(value)
                else:
                    self.tokens = max(1, int(value))
                self.console.print(f"strength {self.strength:g}, {self.tokens} tokens", highlight=False)
            except ValueError:
                self.console.print(f"{command} takes a number, not '{value}'", highlight=False)
        elif command.startswith("/"):
            self.console.print(HELP, highlight=False)
        else:
            self._answer(line)

    def _answer(self, text: str) -> None:
        from vectomy.data.prompts import Prompt
        from vectomy.models import check_lengths

        asked = [Prompt(text)]
        try:
            prompt = self.chat.tokens(asked)
            check_lengths(self.chat, asked, prompt, self.tokens)
        except (ModelError, PromptError) as error:
            # One line that does not reach the model does not end the talk.
            self.console.print(str(error), highlight=False)
            return
        base = self.chat.text(self.chat.answer(prompt, self.tokens, 4096)[0])
        with self.edit.hooks(self.chat.model, strength=self.strength):
            edited = self.chat.text(self.chat.answer(prompt, self.tokens, 4096)[0])
        table = Table(expand=True)
        table.add_column("base", ratio=1)
        table.add_column(f"edited, strength {self.strength:g}", ratio=1)
        table.add_row(Text(base), Text(edited))
        self.console.print(table)
