"""Conversations as data sets write them, read in one place.

A conversation is a list of turns with `role` and `content` (`messages`; TRL's `prompt`) or with
`from` and `value` (ShareGPT's `conversations`). Content is text, or a list of parts of the type
`text`. Tables hold conversations as text, in JSON or as Python prints them.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vectomy.core.json_value import JsonValue

__all__ = ["TOOL_ROLES", "Message", "explain_messages", "parse_conversation", "read_messages"]

# Roles of what happens between the user's request and the answer.
TOOL_ROLES = ("tool call", "tool", "function", "ipython", "observation", "function_call", "tool_call")
ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "developer": "system",
}
"""The roles of other formats, as ours."""
# A conversation that a table holds as text. Other text that begins with a bracket is a prompt.
WRITTEN = re.compile(r"\s*\[\s*\{\s*['\"](role|content|from|value)['\"]\s*:")


@dataclass(frozen=True)
class Message:
    """A turn of a conversation. `role` is system, user or assistant, `tool call` for a turn of the
    assistant that calls tools, or another one that is not ours.
    """

    role: str
    content: str


def read_messages(value: JsonValue) -> list[Message] | None:
    """The turns of a conversation, or None if the value is not one."""
    turns = [value] if isinstance(value, Mapping) else value
    if isinstance(turns, str) or not isinstance(turns, Sequence):
        return None
    messages = [_read_message(turn) for turn in turns]
    read = [message for message in messages if message is not None]
    return read if len(read) == len(messages) else None


def _read_message(turn: JsonValue) -> Message | None:
    if not isinstance(turn, Mapping):
        return None
    role = turn.get("role", turn.get("from"))
    content = _read_content(turn.get("content", turn.get("value")))
    if turn.get("tool_calls") or turn.get("function_call"):
        return Message("tool call", content or "")
    if not isinstance(role, str) or content is None:
        return None
    role = role.strip().lower()
    return Message(ROLES.get(role, role), content)


def _read_content(content: JsonValue) -> str | None:
    """Content as text; None for anything that is not text, such as a picture."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return None
    # Parquet gives every part all keys, without a value where a part lacks one.
    texts = [
        part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        for part in content
    ]
    read = [text for text in texts if isinstance(text, str)]
    return "".join(read) if read and len(read) == len(texts) else None


def explain_messages(value: JsonValue) -> str:
    """What keeps a value from being a conversation of text; '' where nothing can be named."""
    turns = [value] if isinstance(value, Mapping) else value
    if isinstance(turns, str) or not isinstance(turns, Sequence):
        return ""
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, Mapping):
            return f"turn {number} is a {type(turn).__name__}"
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str):
            return f"turn {number} names no role"
        parts = content if isinstance(content, Sequence) and not isinstance(content, str) else []
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            if not isinstance(part, str) and kind != "text":
                return f"turn {number} has a part of the type '{kind!s:.40}', which is no text"
        if _read_content(content) is None:
            return f"turn {number} has no text"
        spoken = ROLES.get(role.strip().lower(), role.strip().lower())
        if spoken not in ("user", "assistant", *TOOL_ROLES) and (spoken != "system" or number > 1):
            return f"turn {number} has the role '{role:.40}'"
    return "no turn is the user's"


def parse_conversation(value: JsonValue) -> JsonValue:
    """A conversation that is written as text, parsed; any other value as it is."""
    if not isinstance(value, str) or not WRITTEN.match(value):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            result: JsonValue = parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return result
    return value
