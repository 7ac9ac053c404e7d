"""Tool calls: does a model that is told how to call a function answer with a call that parses and
fits?

The function is described in the system prompt, so that every chat template takes it; what is
measured is whether the answer is valid, not whether a maker's own format for calls is met.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vectomy.core.jsonl import read_jsonl
from vectomy.data.prompts import Prompt

__all__ = ["ToolPrompt", "fits", "tool_prompts", "valid_call"]

SYSTEM = (
    'You can call one function. Answer with nothing but a JSON object that has the keys "name" and "arguments", where the arguments '
    'follow the function\'s schema. Of another function that would be, for example, {{"name": "get_time", "arguments": {{"town": "Rome"}}}}.'
    "\n\nThe function:\n{tool}"
)
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


@dataclass(frozen=True)
class ToolPrompt:
    """A request, and the function that answers it: `name`, `description` and `parameters` (a JSON
    schema).
    """

    prompt: Prompt
    tool: dict[str, Any]


def tool_prompts() -> list[ToolPrompt]:
    """The twelve that come with vectomy."""
    file = resources.files("vectomy") / "metrics" / "tool_prompts.jsonl"
    return [
        ToolPrompt(Prompt(row["text"], SYSTEM.format(tool=json.dumps(row["tool"], indent=2))), row["tool"])
        for row in read_jsonl(file, remedy="install vectomy again")
    ]


def valid_call(text: str, tool: dict[str, Any]) -> bool:
    """Whether the first JSON object of an answer calls this function with arguments that fit; what
    stands around it (a code fence, tags, words) is allowed.
    """
    call = _first_object(text)
    return (
        call is not None
        and call.get("name") == tool["name"]
        and fits(call.get("arguments"), tool["parameters"], True)
    )


def _first_object(text: str) -> dict[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def fits(value: object, schema: dict[str, Any], closed: bool = False) -> bool:
    """The part of JSON schema that the bundled functions use: type, enum, properties, required,
    items.

    `closed`: properties that the schema does not name are wrong.
    """
    kind = schema["type"]
    # True is an int to Python and none to JSON.
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, list):
        return all(fits(one, schema["items"]) for one in value)
    if not isinstance(value, dict):
        return True
    named = schema["properties"]
    if not all(name in value for name in schema["required"]) or (closed and not set(value) <= set(named)):
        return False
    return all(fits(value[name], named[name]) for name in named if name in value)
