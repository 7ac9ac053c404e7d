"""How a conversation is shown: side by side at a terminal while the answers are made, as a table in
a pipe, or as JSON lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from vectomy.workflows.conversation import Conversation, SpokenTurn, Voice

__all__ = ["ChatScreen"]


class ChatScreen:
    """Prints the turns of a conversation and the replies to its commands."""

    def __init__(self, console: Console, as_json: bool = False) -> None:
        self.console, self.as_json = console, as_json
        self.live: Live | None = None
        self.printed = ""

    def say(self, text: str, **values: object) -> None:
        """A reply that is no answer; with --json an object of `values` and the text."""
        if self.as_json:
            typer.echo(json.dumps({"note": text, **values}, ensure_ascii=False))
        else:
            self.console.print(text, highlight=False, soft_wrap=True)

    def streaming(self, talk: Conversation) -> AbstractContextManager[object]:
        """Around an answer: a growing table, at a terminal and of more than one voice."""
        self.printed = ""
        self.live = None
        if self.as_json or len(talk.voices) == 1 or not self.console.is_terminal:
            return nullcontext()
        self.live = Live(console=self.console, auto_refresh=False, vertical_overflow="visible")
        return self.live

    def tell(self, talk: Conversation, texts: Mapping[Voice, str]) -> None:
        """The answers so far."""
        if self.live is not None:
            self.live.update(_side_by_side(talk, texts), refresh=True)
        elif not self.as_json and len(talk.voices) == 1:
            (voice,) = talk.voices
            text = texts.get(voice, "")
            # A tokenizer may yet change what it wrote last; that is printed with the next letters.
            if text.startswith(self.printed):
                self.console.file.write(text[len(self.printed) :])
                self.console.file.flush()
                self.printed = text

    def finish(self, talk: Conversation, turn: SpokenTurn, verdicts: Mapping[str, str]) -> None:
        """The whole turn."""
        if self.as_json:
            row = {**turn.to_json(), **({"verdicts": dict(verdicts)} if verdicts else {})}
            typer.echo(json.dumps(row, ensure_ascii=False))
            return
        if len(talk.voices) == 1:
            (text,) = turn.answers.values()
            rest = text[len(self.printed) :] if text.startswith(self.printed) else f"\n{text}"
            self.console.file.write(f"{rest}\n")
        elif self.live is None:
            self.console.print(_side_by_side(talk, turn.answers))
        if turn.interrupted:
            self.say(f"interrupted: {', '.join(turn.interrupted)}")
        if verdicts:
            self.say("  ".join(f"{voice}: {verdict}" for voice, verdict in verdicts.items()))


def _side_by_side(talk: Conversation, texts: Mapping[Voice, str]) -> Table:
    table = Table(expand=True)
    for voice in talk.voices:
        point = f"point {talk.point}, " if talk.point and voice == "edited" else ""
        dial = f"{point}strength {talk.strength:g}"
        table.add_column("base" if voice == "base" else f"edited, {dial}", ratio=1)
    table.add_row(*(Text(texts.get(voice, "")) for voice in talk.voices))
    return table
