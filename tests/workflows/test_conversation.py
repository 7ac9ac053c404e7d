"""A conversation: what is streamed, said and saved is what the library computes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path

import published
import pytest
import tiny_chat
from rich.console import Console

from vectomy.cli.chat_commands import ChatCommands
from vectomy.cli.chat_screen import ChatScreen
from vectomy.core.errors import FinishedRunError, PromptError, UsageError
from vectomy.core.jsonl import read_jsonl
from vectomy.data.prompts import Prompt, Turn
from vectomy.edits.edit import Edit
from vectomy.models import load_model, with_adapter
from vectomy.workflows.conversation import Conversation

TIER = "chat"

FIRST, SECOND = "show the owl red", "paint the sun blue"


def edit() -> Edit:
    return Edit.load(published.finished() / "edit.safetensors")


def model() -> object:
    return load_model(published.base(), device="cpu", dtype="float32", name="tiny")


def talk(**more: object) -> Conversation:
    return Conversation(model(), edit(), limit=8, **more)  # type: ignore[arg-type]


def oracle(prompts: list[Prompt], strength: float) -> list[str]:
    """The library's own greedy answers, each prompt alone."""
    chat = model()
    answers = []
    for prompt in prompts:
        with edit().hooks(chat.model, strength=strength):  # type: ignore[attr-defined]
            answers += chat.answer(chat.tokens([prompt]), 8, 4096)  # type: ignore[attr-defined]
    return [chat.text(answer) for answer in answers]  # type: ignore[attr-defined]


@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_side_by_side_equals_each_alone_and_the_library(strength: float) -> None:
    """Over two turns, in which base and edited model have histories of their own."""
    both, base, edited = (
        talk(strength=strength, voices=voices) for voices in (("base", "edited"), ("base",), ("edited",))
    )
    for text in (FIRST, SECOND):
        turn = both.ask(text)
        assert turn.answers["base"] == base.ask(text).answers["base"]
        assert turn.answers["edited"] == edited.ask(text).answers["edited"]
    for voice, dial in (("base", 0.0), ("edited", strength)):
        answers = [turn.answers[voice] for turn in both.turns]  # type: ignore[index]
        history = (Turn("user", FIRST), Turn("assistant", answers[0]))
        assert answers == oracle([Prompt(FIRST), Prompt(SECOND, None, history)], dial)
    if strength == 1.0:
        assert both.turns[0].answers["base"] == tiny_chat.REFUSAL
        assert both.turns[0].answers["edited"] != tiny_chat.REFUSAL


def test_what_is_streamed_grows_to_the_answer() -> None:
    seen: list[Mapping[str, str]] = []
    turn = talk().ask(FIRST, lambda texts: seen.append(dict(texts)))
    assert len(seen) > 2
    assert seen[-1] == turn.answers
    for voice in ("base", "edited"):
        texts = [row[voice] for row in seen]
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
        assert texts[0] != texts[-1]


def test_ctrl_c_ends_the_answer_and_not_the_conversation() -> None:
    conversation = talk(voices=("base",))

    def interrupt(texts: Mapping[str, str]) -> None:
        if len(texts["base"].split()) == 2:
            raise KeyboardInterrupt

    turn = conversation.ask(FIRST, interrupt)
    assert turn.answers["base"] == " ".join(tiny_chat.REFUSAL.split()[:2])
    assert turn.to_json()["interrupted"] == ["base"]
    judged: list[str] = []

    class Told:
        name = "told"

        def verdict(self, prompt: str, text: str) -> str:
            judged.append(text)
            return "refusal"

    commands = ChatCommands(conversation, ChatScreen(Console()), None, Told)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="was interrupted"):
        commands.run("/judge")
    whole = conversation.ask(SECOND)
    assert whole.answers["base"]
    assert whole.to_json()["interrupted"] == []
    assert commands.verdicts() == {"base": "refusal"}
    assert judged == [whole.answers["base"]]


def test_a_fault_of_a_command_is_told_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    commands = ChatCommands(talk(), ChatScreen(Console()), None, lambda: None)  # type: ignore[arg-type, return-value]
    commands.run(f"/save {tmp_path}/a\0b")
    told = capsys.readouterr().out
    assert "takes a number" not in told
    assert "null" in told
    for line in ("/strength x", "/strength nan", "/tokens many"):
        with pytest.raises(UsageError, match="takes a number, not"):
            commands.run(line)


def test_a_reset_and_a_system_prompt_begin_a_new_conversation() -> None:
    conversation = talk(voices=("base",))
    first = conversation.ask(FIRST).answers["base"]
    conversation.ask(SECOND)
    conversation.reset()
    assert conversation.ask(FIRST).answers["base"] == first
    conversation.reset()
    conversation.system = "be brief"
    assert [conversation.ask(FIRST).answers["base"]] == oracle([Prompt(FIRST, "be brief")], 0.0)


def test_the_saved_dial_is_the_edit_of_the_library(tmp_path: Path) -> None:
    conversation = talk(strength=0.25)
    conversation.save(tmp_path / "dial.safetensors")
    assert (tmp_path / "dial.safetensors").read_bytes() == (edit() * 0.25).to_bytes()
    conversation.strength = 1.0
    with pytest.raises(FinishedRunError):
        conversation.save(tmp_path / "dial.safetensors")
    conversation.save(tmp_path / "whole.safetensors")
    assert (tmp_path / "whole.safetensors").read_bytes() == edit().to_bytes()


def test_the_exported_turns_are_those_that_were_said(tmp_path: Path) -> None:
    conversation = talk(strength=0.5, system="be brief", point="4")
    turns = [conversation.ask(FIRST), conversation.ask(SECOND)]
    assert conversation.export(tmp_path / "talk.jsonl") == 2
    rows = read_jsonl(tmp_path / "talk.jsonl")
    assert rows == [turn.to_json() for turn in turns]
    assert rows[0]["edited"] == turns[0].answers["edited"]
    assert (rows[0]["strength"], rows[0]["point"], rows[0]["system"]) == (0.5, "4", "be brief")
    conversation.ask(FIRST)
    with pytest.raises(FinishedRunError):
        conversation.export(tmp_path / "talk.jsonl")


def test_a_conversation_that_is_too_long_says_how_to_go_on() -> None:
    conversation = talk(voices=("base",))
    with pytest.raises(PromptError, match="/reset"):
        conversation.ask("sun " * 5000)
    assert conversation.turns == []
    assert conversation.ask(FIRST).answers["base"] == tiny_chat.REFUSAL


def test_an_adapter_of_peft_is_a_dial_of_the_same_model(tmp_path: Path) -> None:
    """At strength 0 the base, at 1 the model that the library loads with the adapter, and the same
    as the Edit that the adapter was made from.
    """
    pytest.importorskip("peft")
    folder = tmp_path / "adapter"
    shutil.copytree(published.finished() / "adapter", folder)
    conversation = Conversation(with_adapter(model(), folder), None, limit=8)  # type: ignore[arg-type]
    answers = conversation.ask(FIRST).answers
    assert answers == talk().ask(FIRST).answers
    conversation.reset()
    conversation.strength = 0.0
    again = conversation.ask(FIRST).answers
    assert again["edited"] == again["base"] == tiny_chat.REFUSAL
