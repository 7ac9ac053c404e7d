"""The commands that a person types into `vectomy chat`, each a line that begins with a slash."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vectomy.cli.chat_screen import ChatScreen
from vectomy.core.errors import FinishedRunError, UsageError
from vectomy.core.quoted_error import quote_error
from vectomy.core.suggestions import suggest

if TYPE_CHECKING:
    from vectomy.metrics.judges import Judge
    from vectomy.workflows.conversation import Conversation, Voice
    from vectomy.workflows.run_points import RunPoints

__all__ = ["COMMANDS", "VOICES", "ChatCommands", "help_text"]

COMMANDS = {
    "/strength X": "strength of the edit (0 none, 1 as found, below 0 the opposite, 2 reflects)",
    "/point N": "another point of the run; /point alone lists them",
    "/show WHO": "both, edited or base",
    "/system TEXT": "system prompt of a new conversation; without TEXT none",
    "/reset": "new conversation",
    "/tokens N": "length of the answers",
    "/judge": "verdict on the last answers",
    "/save FILE": "the edit at this strength, as an Edit",
    "/export FILE": "the conversation as JSON lines",
    "/help": "this list",
    "/quit": "end",
}
VOICES: dict[str, tuple[Voice, ...]] = {
    "both": ("base", "edited"),
    "edited": ("edited",),
    "base": ("base",),
}


def help_text() -> str:
    """One line for each command."""
    width = max(map(len, COMMANDS))
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in COMMANDS.items())


@dataclass
class ChatCommands:
    """Carries out commands on a conversation.

    Attributes:
        points: those of the run that is talked to; None where it is no run.
        open_judge: opens the judge when it is first asked.
    """

    talk: Conversation
    screen: ChatScreen
    points: RunPoints | None
    open_judge: Callable[[], Judge]
    judge: Judge | None = None

    def run(self, line: str) -> None:
        """Raises VectomyError: the command cannot be carried out; the conversation goes on."""
        name, _, value = line.partition(" ")
        known = {command.split()[0][1:]: None for command in COMMANDS}
        work = getattr(self, f"_{name[1:]}", None) if name[1:] in known else None
        if work is None:
            self.screen.say(
                f"there is no {name}{suggest(name, [f'/{word}' for word in known])}\n{help_text()}"
            )
            return
        try:
            work(value.strip())
        except ValueError as error:
            self.screen.say(f"{name} {value.strip()}: {quote_error(error)}")
        except FinishedRunError as error:
            self.screen.say(f"{error.folder} holds something else; nothing was written. Give another name")

    def verdicts(self) -> dict[str, str]:
        """What the judge says of the last answers, by who gave them. Nothing is said of an answer
        that was interrupted.
        """
        if not self.talk.turns:
            raise UsageError("nothing has been answered yet")
        last = self.talk.turns[-1]
        whole = {voice: text for voice, text in last.answers.items() if voice not in last.interrupted}
        if not whole:
            return {}
        self.judge = self.judge or self.open_judge()
        return {voice: str(self.judge.verdict(last.prompt, text)) for voice, text in whole.items()}

    def _strength(self, value: str) -> None:
        strength = _number(value, "/strength")
        self.talk.strength = strength
        self.screen.say(f"strength {strength:g}, {self.talk.limit} tokens", strength=strength)

    def _tokens(self, value: str) -> None:
        self.talk.limit = max(1, int(_number(value, "/tokens")))
        self.screen.say(f"strength {self.talk.strength:g}, {self.talk.limit} tokens", tokens=self.talk.limit)

    def _point(self, value: str) -> None:
        if self.points is None:
            raise UsageError("this Edit is no point of a run; start with `vectomy chat RUN`")
        if not value:
            self._list_points(self.points)
            return
        from vectomy.workflows.run_points import open_point

        point = self.points.find(value)
        self.talk.edit, self.talk.point = open_point(self.points.folder, point), point.name
        self.screen.say(f"point {point.name}, strength {self.talk.strength:g}", point=point.name)

    def _list_points(self, points: RunPoints) -> None:
        from vectomy.cli.tables.points_table import print_points

        if self.screen.as_json:
            self.screen.say("the points of the run", points=[point.name for point in points.shown])
        else:
            print_points(points)

    def _show(self, value: str) -> None:
        if value not in VOICES:
            raise UsageError(f"/show takes {', '.join(VOICES)}, not '{value}'")
        self.talk.voices = VOICES[value]
        self.screen.say(f"showing {value}")

    def _system(self, value: str) -> None:
        self.talk.system = value or None
        self.talk.reset()
        self.screen.say("new conversation, " + (f"system prompt: {value}" if value else "no system prompt"))

    def _reset(self, value: str) -> None:
        self.talk.reset()
        self.screen.say("new conversation")

    def _judge(self, value: str) -> None:
        verdicts = self.verdicts()
        if not verdicts:
            raise UsageError("the last answer was interrupted, and a part of it is not judged; ask again")
        name = self.judge.name if self.judge else ""
        text = "  ".join(f"{voice}: {verdict}" for voice, verdict in verdicts.items())
        self.screen.say(f"{text}  (judge {name})", verdicts=verdicts)

    def _save(self, value: str) -> None:
        edit = self.talk.save(Path(_named(value, "/save")).expanduser())
        self.screen.say(f"strength {self.talk.strength:g} written to {value}", sha256=edit.sha256, path=value)

    def _export(self, value: str) -> None:
        count = self.talk.export(Path(_named(value, "/export")).expanduser())
        self.screen.say(f"{count} turns written to {value}", turns=count, path=value)

    def _help(self, value: str) -> None:
        self.screen.say(help_text())

    _quit = _help


def _number(value: str, command: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{command} takes a number, not '{value}'")
    return number


def _named(value: str, command: str) -> str:
    if not value:
        raise UsageError(f"{command} needs the name of a new file")
    return value
