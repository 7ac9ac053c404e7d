"""Prompts of a source, read whole.

A source is written as

    FILE                        .jsonl .json .csv .tsv .parquet (a column) or .txt (one prompt per
                                line), each also with .gz
    OWNER/NAME[/SUBSET][:SPLIT] a data set on the Hub (default split: train)
    bundled:refused             a bundled set: refused, harmless, everyday
    xstest                      Paul/XSTest on the Hub: prompts that only look harmful, and harmful
                                ones

FILE and SPLIT may have a slice, such as `[:400]`, and each may have a #COLUMN at the end. Without
it, the first existing column of `text`, `prompt`, `instruction`, `goal`, `question`, `messages` and
the like is used (prompt_files.py). A value is text or a conversation, of which the last turn of the
user is the prompt (conversations.py).
"""

from __future__ import annotations

import math
import re
import reprlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.core.progress import Log, ignore
from vectomy.core.run_config import Source
from vectomy.data.conversations import (
    TOOL_ROLES,
    Message,
    explain_messages,
    parse_conversation,
    read_messages,
)
from vectomy.data.prompt_files import COLUMNS, clip, match_column
from vectomy.data.sources import read_rows, split_column

__all__ = [
    "Labelled",
    "Prompt",
    "PromptSource",
    "Prompts",
    "Turn",
    "as_prompts",
    "as_turn",
    "read_labelled",
    "read_prompts",
    "read_source",
    "read_unmeasured",
]


@dataclass(frozen=True)
class Turn:
    """An earlier turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, repr=False)
class Prompt:
    """A user's request, with its system prompt (None: no system turn) and the earlier turns."""

    text: str
    system: str | None = None
    history: tuple[Turn, ...] = ()

    def __repr__(self) -> str:
        system = "" if self.system is None else f", system {self.system!r:.40}"
        turns = f", after {len(self.history)} turns" if self.history else ""
        return f"<Prompt {reprlib.repr(self.text)}{system}{turns}>"

    @property
    def key(self) -> tuple[str, str]:
        """A key that is equal for prompts that differ only in case, spacing or Unicode form."""

        def plain(text: str) -> str:
            return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()

        # A plain text never contains the separator.
        context = [self.system or "", *(f"{turn.role}: {turn.content}" for turn in self.history)]
        return plain(self.text), "\x1f".join(plain(part) for part in context)

    def to_json(self) -> JsonObject:
        """Text, system prompt and earlier turns, as they are hashed and stored."""
        history = {"history": [vars(turn) for turn in self.history]} if self.history else {}
        return {"text": self.text, "system": self.system, **history}


Prompts = Prompt | str | Iterable[object]
"""Prompts as a caller may give them: see `as_prompts`."""


def as_prompts(prompts: Prompts) -> list[Prompt]:
    """Prompts from what a caller has: texts, `Prompt` values, conversations (lists of messages with
    `role` and `content`), in any mix; or a single text or `Prompt`.

    Raises:
        PromptError: one of them is nothing of the kind.
    """
    given = [prompts] if isinstance(prompts, str | Prompt) else prompts
    if not isinstance(given, Iterable) or isinstance(given, Mapping | bytes):
        raise PromptError(
            f"prompts are texts, not a {type(prompts).__name__}; give a list such as ['How do I bake bread?']"
        )
    return [_as_prompt(value, f"prompt {number}") for number, value in enumerate(given, 1)]


def _as_prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, Prompt):
        if not isinstance(value.text, str):
            raise PromptError(f"the text of {where} is a {type(value.text).__name__}; give a str")
        return value
    if isinstance(value, str):
        return Prompt(value)
    prompt = _read_conversation(value, None, where) if isinstance(value, list) and value else None
    if isinstance(prompt, Prompt):
        return prompt
    raise PromptError(
        f"{where} is {clip(repr(value))}, a {type(value).__name__}; a prompt is a text, a vectomy.Prompt, or "
        "a list of messages with `role` and `content`"
    )


@dataclass(frozen=True)
class Labelled:
    """A prompt with the type and label of its source, as XSTest has them: `type` (homonyms, ...)
    and `label` (safe, unsafe).
    """

    prompt: Prompt
    type: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class PromptSource:
    """A source's prompts, without duplicates.

    Attributes:
        split: what the source itself assigns, as the bundled sets do.
        left_out: the number of rows that are not used, by the reason.
    """

    source: str
    labelled: tuple[Labelled, ...]
    split: tuple[str | None, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(row.prompt for row in self.labelled)


def read_prompts(source: Source, log: Log = ignore) -> list[Prompt]:
    """All prompts of a source, without duplicates; `log` takes what was left out.

    Raises:
        PromptError: the file, data set or column does not exist, a row is not text, or the source
            is empty.
    """
    return list(read_source(source, log).prompts)


def read_labelled(source: Source, log: Log = ignore) -> list[Labelled]:
    """Prompts to measure on, with the type and label of their rows, without duplicates.

    Of a set with splits of its own, such as the bundled ones, only the test split is read:
    directions may have been fitted on the others.

    Raises:
        PromptError: as `read_prompts`.
    """
    read = read_source(source, log)
    if not any(read.split):
        return list(read.labelled)
    return [row for row, split in zip(read.labelled, read.split, strict=True) if split == "test"]


def read_unmeasured(source: Source, log: Log = ignore) -> list[Prompt]:
    """Prompts to learn from: everything except the test split, if the set has splits of its own.

    Raises:
        PromptError: as `read_prompts`.
    """
    read = read_source(source, log)
    return [prompt for prompt, split in zip(read.prompts, read.split, strict=True) if split != "test"]


def read_source(source: Source, log: Log = ignore) -> PromptSource:
    """A source with the splits of its own; `log` takes what was left out.

    Raises:
        PromptError: as `read_prompts`.
    """
    spec, asked = split_column(source.prompts)
    rows = read_rows(spec)
    if not rows:
        raise PromptError(
            f"the prompt source {spec} is empty; give a file with one prompt a line (.txt), or with rows "
            "that have a column `prompt`"
        )
    column = _find_column(spec, asked, [str(name) for name in rows[0]])
    prompts: dict[tuple[str, str], tuple[Labelled, str | None]] = {}
    left_out: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        where = f"row {number} of {spec}"
        if column not in row:
            raise PromptError(f"{where} has no column '{column}'; it has {_list_columns(row)}")
        prompt = _read_prompt(row, column, source.system, where)
        if not isinstance(prompt, Prompt):
            left_out[prompt] += 1
        elif prompt.key in prompts:
            left_out["double"] += 1
        else:
            labelled = Labelled(prompt, _to_text(row.get("type")), _to_text(row.get("label")))
            split = row.get("split") if spec.startswith("bundled:") else None
            prompts[prompt.key] = labelled, split if isinstance(split, str) else None
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    if not prompts and set(left_out) - {"null", "empty"}:
        raise PromptError(f"no row of the prompt source {spec} has a prompt that can be used: {reasons}")
    if not prompts:
        raise PromptError(
            f"the prompt source {spec} has only empty prompts in column '{column}'; name another with "
            f"'{spec}#COLUMN'"
        )
    if left_out:
        log(f"{spec}: {left_out.total()} of {len(rows)} rows are not used ({reasons})")
    if tools := sum(bool(row.get("tools")) for row in rows):
        log(f"{spec}: {tools} rows list `tools`; prompts hold no tools, so the model is asked without them")
    own = 0 if source.system is not None else sum(_own_system(row, column) is not None for row in rows)
    if own:
        log(f"{spec}: {own} rows bring a system prompt in the column `system`, which the model is given")
    kept = prompts.values()
    return PromptSource(
        spec, tuple(row for row, _ in kept), tuple(split for _, split in kept), dict(left_out)
    )


def _find_column(spec: str, asked: str, columns: list[str]) -> str:
    column = match_column(columns, asked)
    if column is not None:
        return column
    lacks = f"no column '{asked}'" if asked else f"none of the columns {', '.join(COLUMNS[:6])} and the like"
    shown = ", ".join(clip(name) for name in columns[:20]) or "none in its first row"
    headless = (
        ". If its first line is a prompt, put a line `prompt` before it"
        if not asked and len(columns) == 1 and " " in columns[0]
        else ""
    )
    raise PromptError(
        f"the prompt source {spec} has {lacks}; it has {shown}. Name one with '{spec}#COLUMN'{headless}"
    )


def _list_columns(row: Mapping[str, JsonValue]) -> str:
    return ", ".join(clip(str(name)) for name in list(row)[:20]) or "none"


def _read_prompt(row: JsonObject, column: str, system: str | None, where: str) -> Prompt | str:
    """The prompt of a row, or why the row has none."""
    value = parse_conversation(row[column])
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        if len(value) > 1:
            raise PromptError(
                f"{where} has {len(value)} texts in column '{column}', and nothing says who speaks; write "
                "turns with `role` and `content`"
            )
        value = value[0]
    spoken = _own_system(row, column) if system is None else system
    if isinstance(value, (list, dict)):
        conversation = _read_conversation(value, spoken, where)
        if isinstance(conversation, str):
            return conversation
        prompt = conversation
    elif isinstance(value, str):
        prompt = Prompt(_join_input(value, row, column), spoken)
    else:
        raise PromptError(
            f"{where} has {clip(repr(value))} in column '{column}', which is not text; name a text "
            "column with #COLUMN"
        )
    for text in (prompt.text, prompt.system or "", *(turn.content for turn in prompt.history)):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise PromptError(
                f"{where} has half a character (a lone surrogate) in column '{column}'; write the file "
                "again, as UTF-8"
            )
    return prompt if prompt.text else "empty"


def _own_system(row: JsonObject, column: str) -> str | None:
    """The system prompt that a row brings in a column `system`."""
    value = row.get("system")
    return value if column != "system" and isinstance(value, str) and value.strip() else None


def _join_input(text: str, row: JsonObject, column: str) -> str:
    """The prompt of a text column. Alpaca's rows divide it into `instruction` and `input`."""
    given = row.get("input") if column == "instruction" else None
    text = text.strip()
    return f"{text}\n\n{given.strip()}" if text and isinstance(given, str) and given.strip() else text


def _to_text(value: JsonValue) -> str | None:
    """A type or label as text; class numbers are kept as written."""
    return None if value is None or value == "" else str(value)


def _read_conversation(value: JsonValue, system: str | None, where: str) -> Prompt | str:
    """The last turn of the user, with the turns before it, or why that is no prompt.

    Answers after it are left out, with their calls of tools. The caller's system prompt replaces
    that of the file.
    """
    turns = read_messages(value) or []
    if turns and turns[0].role == "system":
        system = turns[0].content if system is None else system
        turns = turns[1:]
    while turns and turns[-1].role in ("assistant", *TOOL_ROLES):
        turns = turns[:-1]
    tools = next((turn.role for turn in turns if turn.role in TOOL_ROLES), None)
    if tools is not None:
        return f"with an earlier turn of the role '{tools}'"
    history = [turn for turn in map(as_turn, turns) if turn is not None]
    if not turns or len(history) < len(turns) or history[-1].role != "user":
        reason = explain_messages(value)
        raise PromptError(
            f"{where} has messages that are not a conversation{f' ({reason})' if reason else ''}. Needed is "
            "a list of turns with `role` (user, assistant; system for the first) and `content`, which is "
            f"text, of which one is the user's, not {clip(repr(value), 200)}"
        )
    return Prompt(history[-1].content.strip(), system, tuple(history[:-1]))


def as_turn(message: Message) -> Turn | None:
    """A message as a turn; None for other roles than user and assistant."""
    if message.role == "user":
        return Turn("user", message.content)
    return Turn("assistant", message.content) if message.role == "assistant" else None
