"""Inspect AI asks the edited model through its own provider and gets the library's answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_chat
from finished_run import finished_run

from vectomy.core.errors import UsageError
from vectomy.core.jsonl import read_jsonl

pytest.importorskip("inspect_ai", reason="needs Inspect AI: pip install 'vectomy[inspect]'")

from inspect_ai import Task
from inspect_ai import eval as run_task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser
from inspect_ai.scorer import includes

from vectomy.workflows.inspect_provider import EditedModelAPI, read_messages

TIER = "chat"


def changed_row(folder: Path) -> dict[str, dict[str, str]]:
    rows = read_jsonl(folder / "completions.jsonl")
    return next(row for row in rows if row["baked"]["text"] != row["base"]["text"])


@pytest.mark.parametrize("voice", ["base", "edited"])
def test_a_task_of_inspect_asks_the_edited_model(voice: str, tmp_path: Path) -> None:
    """The scorer of Inspect finds the text that the run itself measured."""
    folder = finished_run(behaviour_tokens=("I",), n_search=4, n_test=4)
    row = changed_row(folder)
    form = {"base": "base", "edited": "baked"}[voice]
    task = Task([Sample(row["prompt"], target=row[form]["text"])], scorer=includes())
    (log,) = run_task(
        task,
        model=f"vectomy/{folder}",
        model_args={"voice": voice, "device": "cpu"},
        max_tokens=8,
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success", log.error
    (sample,) = log.samples
    assert sample.output.completion == row[form]["text"]
    assert sample.scores["includes"].value == "C"
    assert sample.output.usage.output_tokens > 0


def test_messages_become_a_prompt_with_its_history() -> None:
    prompt = read_messages(
        [
            ChatMessageSystem(content="be brief"),
            ChatMessageUser(content="show the owl red"),
            ChatMessageAssistant(content=tiny_chat.REFUSAL),
            ChatMessageUser(content="show the sun red"),
        ]
    )
    assert (prompt.system, prompt.text) == ("be brief", "show the sun red")
    assert [(turn.role, turn.content) for turn in prompt.history] == [
        ("user", "show the owl red"),
        ("assistant", tiny_chat.REFUSAL),
    ]
    with pytest.raises(UsageError, match="has to be the user's"):
        read_messages([ChatMessageAssistant(content="x")])
    with pytest.raises(UsageError, match="voice is base or edited"):
        EditedModelAPI("nothing", voice="both")
