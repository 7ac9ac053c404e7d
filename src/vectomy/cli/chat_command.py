"""`vectomy chat EDIT`: a conversation with a model and its edited form, side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from vectomy.cli.chat_commands import VOICES, ChatCommands, help_text
from vectomy.cli.chat_screen import ChatScreen
from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.options import unpack
from vectomy.cli.terminal import open_console
from vectomy.cli.vocabulary import (
    MEASURES,
    AsJson,
    Edit,
    ThreadCount,
    TrustRemoteCode,
    base_option,
    option,
    point_option,
    strength_option,
)
from vectomy.core.choices import JUDGE_NAMES
from vectomy.core.config import EDIT, MACHINE, PROMPTS, LoadIn
from vectomy.core.errors import VectomyError

if TYPE_CHECKING:
    from vectomy.metrics.judges import Judge

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("chat", cls=SectionedCommand, rich_help_panel=JOB)(unpack(ChatOptions)(_chat))


@dataclass(frozen=True)
class ChatOptions:
    """The arguments and options of `vectomy chat`."""

    edit: Edit
    base: Annotated[
        str | None, base_option("needed if the Edit does not name it, or names a folder that has moved.")
    ] = None
    point: Annotated[str | None, point_option("the first one; `/point N` changes it.")] = None
    strength: Annotated[float, strength_option("the first one; `/strength X` changes it.")] = 1.0
    system: Annotated[
        str | None,
        option("--system", help="System prompt of the conversation.", panel=PROMPTS, metavar="TEXT"),
    ] = None
    show: Annotated[Literal["both", "edited", "base"], option("--show", help="Who answers.", panel=EDIT)] = (
        "both"
    )
    answer_tokens: Annotated[
        int, option("--answer-tokens", help="Greedy tokens in each answer.", panel=MEASURES, min=1)
    ] = 512
    judge: Annotated[
        str | None,
        option(
            "--judge",
            help=f"Judge: {', '.join(JUDGE_NAMES)}, openai:URL[#MODEL], or hf:ID of a classifier. It judges "
            "every answer; without it `/judge` asks the default one.",
            panel=MEASURES,
            metavar="NAME",
        ),
    ] = None
    load_in: Annotated[
        LoadIn | None,
        option(
            "--load-in",
            help="Quantise the weights with bitsandbytes while the model runs. [default: as in its run]",
            panel=MACHINE,
        ),
    ] = None
    threads: ThreadCount = "auto"
    trust_remote_code: TrustRemoteCode = False
    as_json: AsJson = False


def _chat(options: ChatOptions) -> None:
    """Talk to the base and the edited model side by side, token by token. Each has its own history;
    lines that begin with / change the edit, the prompt or the conversation. Lines may come from a
    pipe; --json prints one object a line.
    """
    console = open_console()
    from vectomy.cli.progress_bars import bars
    from vectomy.workflows.open_conversation import open_conversation

    talk, points = open_conversation(
        options.edit,
        options.base,
        point=options.point,
        load_in=options.load_in,
        trust_remote_code=options.trust_remote_code,
        progress=bars,
    )
    talk.strength, talk.limit = options.strength, options.answer_tokens
    talk.system, talk.voices = options.system, VOICES[options.show]
    screen = ChatScreen(console, options.as_json)
    commands = ChatCommands(talk, screen, points, partial(_open_judge, options.judge))
    if not options.as_json:
        console.print(help_text(), highlight=False)
    for line in _lines(console):
        if line in ("/quit", "/exit"):
            break
        try:
            if line.startswith("/"):
                commands.run(line)
            else:
                with screen.streaming(talk):
                    turn = talk.ask(line, partial(screen.tell, talk))
                screen.finish(talk, turn, commands.verdicts() if options.judge else {})
        except VectomyError as error:
            # One line that does not reach the model does not end the talk.
            screen.say(str(error))


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


def _open_judge(name: str | None) -> Judge:
    from vectomy.metrics.judges import DEFAULT_JUDGE, open_judge

    return open_judge(name or DEFAULT_JUDGE)
