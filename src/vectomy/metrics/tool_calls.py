"""Tool calls: whether a model that is told how to call a function answers with a valid call.

The system prompt describes the function, so that every chat template accepts it. The measure is
whether the answer is valid JSON with valid arguments, not whether it follows a maker's own format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import read_jsonl
from vectomy.data.prompts import Prompt

__all__ = ["ToolPrompt", "fits", "tool_prompts", "valid_call"]

SYSTEM = (
    'You can call one function. Answer with nothing but a JSON object that has the keys "name" and '
    '"arguments", where the arguments '
    'follow the function\'s schema. Of another function that would be, for example, {{"name": "get_time", '
    '"arguments": {{"town": "Rome"}}}}.'
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
    """A request and the function for it, with `name`, `description` and `parameters` (a JSON
    schema).
    """

    prompt: Prompt
    tool: dict[str, Any]


def tool_prompts() -> list[ToolPrompt]:
    """The twelve bundled prompts."""
    file = resources.files("vectomy") / "metrics" / "tool_prompts.jsonl"
    return [
        ToolPrompt(Prompt(row["text"], SYSTEM.format(tool=json.dumps(row["tool"], indent=2))), row["tool"])
        for row in read_jsonl(file, remedy="install vectomy again")
    ]


def valid_call(text: str, tool: dict[str, Any]) -> bool:
    """Whether the first JSON object of an answer calls this function with valid arguments. Text
    around it (a code fence, tags, words) is allowed.
    """
    call = _first_object(text)
    return (
        call is not None
        and call.get("name") == tool["name"]
        and fits(call.get("arguments"), tool["parameters"], True)
    )


def _first_object(text: str) -> JsonObject | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def fits(value: object, schema: dict[str, Any], closed: bool = False) -> bool:
    """Validate a value against the part of JSON schema that the bundled functions use: type, enum,
    properties, required, items.

    Args:
        closed: reject properties that the schema does not name.
    """
    kind = schema["type"]
    # True is an int in Python but not in JSON.
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, list):
        return all(fits(item, schema["items"]) for item in value)
    if not isinstance(value, dict):
        return True
    named = schema["properties"]
    if not all(name in value for name in schema["required"]) or (closed and not set(value) <= set(named)):
        return False
    return all(fits(value[name], named[name]) for name in named if name in value)
