"""Which answers are valid tool calls."""

import json

import pytest

from vectomy.metrics.tool_calls import fits, tool_prompts, valid_call

TIER = "unit"

TOOL = next(one.tool for one in tool_prompts() if one.tool["name"] == "find_trains")


GOOD = {"origin": "Lyon", "destination": "Geneva", "date": "3 June", "passengers": 2}


def call(arguments: object, name: str = "find_trains") -> str:
    return json.dumps({"name": name, "arguments": arguments})


@pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "<tool_call>{}</tool_call>", "Sure: {} There."])
def test_a_call_that_fits_is_valid_whatever_stands_around_it(around: str) -> None:
    assert valid_call(around.replace("{}", call(GOOD)), TOOL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't help with that",
        "{",
        call(GOOD)[:-1],
        call(GOOD, "find_planes"),
        call(None),
        "[1]",
        '{"name": "find_trains"}',
        call({**GOOD, "passengers": "2"}),
        call({**GOOD, "passengers": True}),
        call({**GOOD, "passengers": 2.5}),
        call({**GOOD, "colour": "red"}),
        call({key: GOOD[key] for key in ("origin", "date")}),
        '{"a": 1} ' + call(GOOD),
    ],
)
def test_what_does_not_parse_or_fit_is_not_valid(text: str) -> None:
    assert not valid_call(text, TOOL)


def test_the_schema_subset() -> None:
    assert fits(["a"], {"type": "array", "items": {"type": "string"}})
    assert not fits(["a", 1], {"type": "array", "items": {"type": "string"}})
    assert fits("a", {"type": "string", "enum": ["a", "b"]})
    assert not fits("c", {"type": "string", "enum": ["a", "b"]})
    assert fits(1, {"type": "number"})
    assert fits(True, {"type": "boolean"})
    assert not fits(1, {"type": "boolean"})
    assert not fits(float("nan"), {"type": "integer"})


def test_bundled_tools_describe_themselves() -> None:
    asked = tool_prompts()
    assert len(asked) == 12
    for one in asked:
        parameters = one.tool["parameters"]
        assert set(parameters["required"]) <= set(parameters["properties"])
        assert one.tool["name"] in (one.prompt.system or "")
        assert not fits({}, parameters)
