"""A conversation with a model and its edited form, each with its own history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vectomy.core.errors import EditError, UsageError
from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import json_line, write_jsonl
from vectomy.core.output_path import check_file_content
from vectomy.data.prompts import Prompt, Turn
from vectomy.data.thoughts import split_thoughts
from vectomy.edits.edit import Edit
from vectomy.models import ChatModel, check_lengths
from vectomy.models.adapter_dial import scale_adapter
from vectomy.models.streaming import can_share_a_batch, stream_answers

__all__ = ["Conversation", "SpokenTurn", "Voice"]

Voice = Literal["base", "edited"]
TellVoices = Callable[[Mapping[Voice, str]], None]
"""Gets the text of each answer so far."""


@dataclass(frozen=True)
class SpokenTurn:
    """A prompt, the answers by voice, and the edit that answered.

    Attributes:
        interrupted: the voices whose answers Ctrl-C cut.
    """

    prompt: str
    answers: Mapping[Voice, str]
    strength: float
    point: str | None
    system: str | None
    interrupted: tuple[Voice, ...] = ()

    def to_json(self) -> JsonObject:
        return {
            "prompt": self.prompt,
            **{str(voice): text for voice, text in self.answers.items()},
            "strength": self.strength,
            "point": self.point,
            "system": self.system,
            "interrupted": list(self.interrupted),
        }


@dataclass
class Conversation:
    """The base and the edited model answer the same turns.

    Attributes:
        edit: None where `chat` has an adapter that is no Edit.
        limit: most tokens of an answer.
        voices: who answers.
        point: the name of the run's point that `edit` is.
    """

    chat: ChatModel
    edit: Edit | None
    strength: float = 1.0
    limit: int = 128
    system: str | None = None
    voices: tuple[Voice, ...] = ("base", "edited")
    point: str | None = None
    turns: list[SpokenTurn] = field(default_factory=list)
    history: dict[Voice, tuple[Turn, ...]] = field(default_factory=dict)

    def reset(self) -> None:
        """Start a new conversation; what was said stays for `export`."""
        self.history = {}

    def ask(self, text: str, tell: TellVoices = lambda texts: None) -> SpokenTurn:
        """The answers to the next turn.

        Raises:
            PromptError: the conversation does not fit the model's positions.
            ModelError: the template takes no such turn.
        """
        voices = self.voices
        asked = [Prompt(text, self.system, self.history.get(voice, ())) for voice in voices]
        tokens = self.chat.tokens(asked)
        check_lengths(
            self.chat, asked, tokens, self.limit, remedy="start a new conversation with /reset, or /tokens N"
        )
        answers: dict[Voice, str] = {}
        interrupted: list[Voice] = []
        for group in self._groups():
            rows = [tokens[voices.index(voice)] for voice in group]
            texts, cut = self._answer(group, rows, answers, tell)
            answers |= texts
            interrupted += group if cut else ()
        for voice, answer in answers.items():
            said = (Turn("user", text), Turn("assistant", split_thoughts(answer).answer))
            self.history[voice] = (*self.history.get(voice, ()), *said)
        turn = SpokenTurn(text, answers, self.strength, self.point, self.system, tuple(interrupted))
        self.turns.append(turn)
        return turn

    def _answer(
        self,
        group: Sequence[Voice],
        tokens: Sequence[Sequence[int]],
        earlier: Mapping[Voice, str],
        tell: TellVoices,
    ) -> tuple[dict[Voice, str], bool]:
        """The answers of some voices in one batch, and whether Ctrl-C cut them."""

        def read(answers: Sequence[Sequence[int]]) -> dict[Voice, str]:
            return {voice: self.chat.text(ids) for voice, ids in zip(group, answers, strict=True)}

        def tell_group(answers: Sequence[Sequence[int]]) -> None:
            letters = {voice: _whole_letters(text) for voice, text in read(answers).items()}
            tell({**earlier, **letters})

        with self.dialled(group):
            ids, cut = stream_answers(self.chat, tokens, self.limit, tell_group)
        return read(ids), cut

    def save(self, path: Path, *, overwrite: bool = False) -> Edit:
        """Write the Edit at the strength of the dial.

        Raises:
            UsageError: there is an adapter instead of an Edit.
            FinishedRunError: another file has that name.
        """
        if self.edit is None:
            raise UsageError("an adapter of PEFT is no Edit; its strength is set where it is loaded")
        edit = self.edit if self.strength == 1.0 else self.edit * self.strength
        edit.save(path, overwrite=overwrite)
        return edit

    def export(self, path: Path) -> int:
        """Write all turns as JSON lines; returns their number.

        Raises:
            FinishedRunError: another file has that name.
        """
        rows = [turn.to_json() for turn in self.turns]
        check_file_content(path, "".join(map(json_line, rows)).encode(), "another file is there")
        write_jsonl(path, rows)
        return len(rows)

    def _groups(self) -> list[tuple[Voice, ...]]:
        """The voices that answer in one batch."""
        if len(self.voices) == 1 or self.edit is None or not can_share_a_batch(self.chat):
            return [(voice,) for voice in self.voices]
        try:
            with self.dialled(self.voices):
                return [self.voices]
        except EditError:
            # Its parameters are changed in place, for all rows alike.
            return [(voice,) for voice in self.voices]

    def dialled(self, group: Sequence[Voice]) -> AbstractContextManager[object]:
        """The strength of each voice at work in the model."""
        strengths = [0.0 if voice == "base" else self.strength for voice in group]
        if self.edit is None:
            return scale_adapter(self.chat.model, strengths[0])
        if not any(strengths):
            return nullcontext()
        dial = strengths[0] if len(strengths) == 1 else strengths
        return self.edit.hooks(self.chat.model, strength=dial)


def _whole_letters(text: str) -> str:
    """The text without a last character that is still incomplete."""
    return text.rstrip("\ufffd")
