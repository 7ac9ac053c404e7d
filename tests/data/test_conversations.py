"""Conversations with tools: what a prompt cannot hold is counted and said, never dropped."""

import json
from pathlib import Path

import pytest

from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_config import Source
from vectomy.data.prompts import Prompt, Turn, read_prompts, read_source

TIER = "unit"

CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}
RESULT = {"role": "tool", "content": "12 degrees"}
ASKED = {"role": "user", "content": "How warm is it?"}
ANSWER = {"role": "assistant", "content": "12 degrees."}
THANKS = {"role": "user", "content": "And tomorrow?"}


def written(tmp_path: Path, *rows: JsonObject) -> Source:
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return Source(prompts=str(file))


def test_a_call_behind_the_last_request_is_a_part_of_the_answer(tmp_path: Path) -> None:
    source = written(tmp_path, {"messages": [ASKED, CALL, RESULT, ANSWER]})
    assert read_prompts(source) == [Prompt("How warm is it?")]


@pytest.mark.parametrize(
    ("turns", "role"),
    [
        ([ASKED, CALL, RESULT, ANSWER, THANKS], "tool call"),
        ([ASKED, {**CALL, "content": None}, THANKS], "tool call"),
        ([ASKED, RESULT, THANKS], "tool"),
        (
            [ASKED, {"role": "assistant", "content": "x", "function_call": {"name": "look"}}, THANKS],
            "tool call",
        ),
    ],
)
def test_a_row_with_an_earlier_call_is_left_out_and_counted(
    tmp_path: Path, turns: list[JsonObject], role: str
) -> None:
    lines: list[str] = []
    source = written(tmp_path, {"messages": turns}, {"messages": [ASKED, ANSWER, THANKS]})
    read = read_source(source, lines.append)
    assert read.prompts == (
        Prompt("And tomorrow?", None, (Turn("user", "How warm is it?"), Turn("assistant", "12 degrees."))),
    )
    assert read.left_out == {f"with an earlier turn of the role '{role}'": 1}
    assert "1 of 2 rows are not used" in lines[0]
    with pytest.raises(PromptError, match=f"has a prompt that can be used: 1 with an .* '{role}'"):
        read_source(written(tmp_path, {"messages": turns}))


def test_parquet_gives_every_turn_an_empty_list_of_calls(tmp_path: Path) -> None:
    turns = [{**turn, "tool_calls": calls} for turn, calls in ((ASKED, None), (ANSWER, []), (THANKS, []))]
    assert len(read_prompts(written(tmp_path, {"messages": turns}))) == 1


def test_tools_that_a_row_lists_are_said(tmp_path: Path) -> None:
    lines: list[str] = []
    rows = ({"messages": [ASKED], "tools": [{"name": "look"}]}, {"messages": [THANKS], "tools": []})
    assert len(read_source(written(tmp_path, *rows), lines.append).prompts) == 2
    (line,) = lines
    assert "1 rows list `tools`; prompts hold no tools, so the model is asked without them" in line


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}],
            "the type 'image'",
        ),
        ([ASKED, {"role": "system", "content": "late"}], "turn 2 has the role 'system'"),
        ([{"role": "critic", "content": "x"}], "turn 1 has the role 'critic'"),
        ([{"content": "x"}], "turn 1 names no role"),
        ([{"role": "user", "content": 3}], "turn 1 has no text"),
        ([ANSWER], "no turn is the user's"),
    ],
)
def test_what_keeps_messages_from_being_a_conversation_is_named(
    tmp_path: Path, turns: list[JsonObject], reason: str
) -> None:
    with pytest.raises(PromptError, match=rf"row 1 .* not a conversation \(.*{reason}"):
        read_prompts(written(tmp_path, {"messages": turns}))


def test_the_system_prompt_that_a_row_brings_is_given_and_said(tmp_path: Path) -> None:
    lines: list[str] = []
    rows = ({"prompt": "a", "system": "Be brief."}, {"prompt": "b", "system": " "}, {"prompt": "c"})
    source = written(tmp_path, *rows)
    read = read_source(source, lines.append)
    assert [prompt.system for prompt in read.prompts] == ["Be brief.", None, None]
    assert "1 rows bring a system prompt" in lines[0]
    # The caller's replaces it.
    asked = source.model_copy(update={"system": "Be sad."})
    assert {prompt.system for prompt in read_source(asked).prompts} == {"Be sad."}
