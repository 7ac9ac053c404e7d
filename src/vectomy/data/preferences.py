"""Preference rows: a prompt with a chosen and a rejected answer, from files and data sets.

A row has `chosen`, `rejected` and a prompt. The prompt is in a column of its own (`messages`,
`conversations`, `prompt`, `question`, `instruction` or `input`, and optionally `system`), or
consists of the turns that both conversations begin with, as in mlabonne/orpo-dpo-mix-40k. Each
value is plain text, a turn, or a list of turns (conversations.py). Other rows are counted by the
reason.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.data.conversations import Message, parse_conversation, read_messages
from vectomy.data.prompts import Prompt, Turn, as_turn
from vectomy.data.sources import read_rows

__all__ = ["Preference", "Preferences", "read_preferences"]

PROMPT_COLUMNS = ("messages", "conversations", "prompt", "question", "instruction", "input")


@dataclass(frozen=True)
class Preference:
    """A prompt with its answers; `rejected` is None if only the chosen answer is needed."""

    prompt: Prompt
    chosen: str
    rejected: str | None = None

    def to_json(self) -> JsonObject:
        """The row in the form that `read_preferences` and Axolotl's
        `chat_template.default` read.
        """
        system = [{"role": "system", "content": self.prompt.system}] if self.prompt.system else []
        history = [{"role": turn.role, "content": turn.content} for turn in self.prompt.history]
        answers = {"chosen": self.chosen, **({} if self.rejected is None else {"rejected": self.rejected})}
        return {
            "messages": [*system, *history, {"role": "user", "content": self.prompt.text}],
            **{name: {"role": "assistant", "content": text} for name, text in answers.items()},
        }


@dataclass(frozen=True)
class Preferences:
    """The usable rows of a source; `left_out` counts the others by reason."""

    rows: tuple[Preference, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        return {"rows": len(self.rows), "left_out": dict(self.left_out)}

    def without(self, taken: Sequence[Prompt], reason: str) -> Preferences:
        """The rows without those whose prompt text is among `taken`, counted under `reason`."""
        texts = {prompt.key[0] for prompt in taken}
        kept = tuple(row for row in self.rows if row.prompt.key[0] not in texts)
        gone = len(self.rows) - len(kept)
        return Preferences(kept, {**self.left_out, **({reason: gone} if gone else {})})


def read_preferences(
    source: str, *, paired: bool = True, limit: int | None = None, seed: int = 0
) -> Preferences:
    """The usable rows of a file or data set, or a seeded sample of at most `limit` of them.

    Raises:
        PromptError: the source cannot be read, lacks the columns, or has no usable row; the message
            counts the reasons.
    """
    rows = read_rows(source)
    if not rows:
        raise PromptError(f"the preference source {source} is empty")
    _check_columns(source, rows[0], paired)
    result: list[Preference] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        preference = _read_row(row, paired)
        if isinstance(preference, Preference):
            result.append(preference)
        else:
            left_out[preference] += 1
    if not result:
        raise PromptError(f"no row of the preference source {source} is usable: {_list_reasons(left_out)}")
    if limit is not None and limit < len(result):
        picked = sorted(random.Random(seed).sample(range(len(result)), limit))
        left_out["not in the sample"] += len(result) - limit
        result = [result[index] for index in picked]
    return Preferences(tuple(result), dict(left_out))


def _check_columns(source: str, row: Mapping[str, JsonValue], paired: bool) -> None:
    wanted = ("chosen", "rejected") if paired else ("chosen",)
    missing = [name for name in wanted if name not in row]
    chosen = parse_conversation(row.get("chosen"))
    whole = isinstance(chosen, list) and len(chosen) > 1
    if missing or not (whole or any(name in row for name in PROMPT_COLUMNS)):
        lacks = ", ".join(missing) or f"a prompt ({', '.join(PROMPT_COLUMNS)})"
        raise PromptError(
            f"the preference source {source} lacks {lacks}; it has {', '.join(map(str, row))}. Rows need "
            "`prompt`, `chosen` and "
            "`rejected`, as text or as lists of turns with `role` and `content`"
        )


def _list_reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count} with {reason}" for reason, count in sorted(left_out.items(), key=lambda item: -item[1])
    )


def _read_row(row: Mapping[str, JsonValue], paired: bool) -> Preference | str:
    """The preference in a row, or why the row is not usable."""
    column = next((name for name in PROMPT_COLUMNS if row.get(name)), None)
    sides = [row.get("chosen"), row.get("rejected")] if paired else [row.get("chosen")]
    before: list[list[Message]] = []
    answers: list[str] = []
    for name, value in zip(("chosen", "rejected"), sides, strict=False):
        turns = _turns(value, "assistant")
        if turns is None:
            return f"a {name} answer that is neither text nor turns"
        if not turns or turns[-1].role != "assistant" or not turns[-1].content.strip():
            return f"an empty {name} answer"
        before.append(turns[:-1])
        answers.append(turns[-1].content.strip())
    if any(other != before[0] for other in before):
        return "a chosen and a rejected answer to different conversations"
    asked = before[0] or (_turns(row[column], "user") if column else [])
    prompt = _prompt(asked, row.get("system"))
    if isinstance(prompt, str):
        return prompt
    if paired and answers[0] == answers[1]:
        return "chosen equal to rejected"
    return Preference(prompt, answers[0], answers[1] if paired else None)


def _turns(value: JsonValue, role: str) -> list[Message] | None:
    """A value as turns. Text becomes one turn of `role`; None means that the value is something
    else.
    """
    if value is None:
        return []
    parsed = parse_conversation(value)
    return [Message(role, parsed)] if isinstance(parsed, str) else read_messages(parsed)


def _prompt(turns: list[Message] | None, system: JsonValue) -> Prompt | str:
    if turns is None:
        return "a prompt that is neither text nor turns"
    spoken = system if isinstance(system, str) and system.strip() else None
    if turns and turns[0].role == "system":
        spoken, turns = turns[0].content, turns[1:]
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        return "no prompt"
    *history, last = turns
    told: list[Turn] = []
    for message in history:
        turn = as_turn(message)
        if turn is None:
            return f"a turn of the role '{message.role:.40}'"
        told.append(turn)
    return Prompt(last.content.strip(), spoken, tuple(told))
