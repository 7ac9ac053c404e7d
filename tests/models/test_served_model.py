"""A model behind an OpenAI-compatible server: its answers are the model's own, and each failure is
one sentence.
"""

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from chat_server import Reply, answering, stand_in
from tiny_chat import DAY, NIGHT

from vectomy.core.chat_endpoint import Patience
from vectomy.core.errors import EngineError
from vectomy.core.run_folder import Journal
from vectomy.data.prompts import Prompt, Turn
from vectomy.data.thoughts import split_thoughts
from vectomy.models.served_model import KEY, ServedModel

TIER = "chat"

QUICK = Patience(timeout=5.0, attempts=2, wait=0.01)
PROMPTS = [
    *tiny_chat.prompts(NIGHT, 3),
    *tiny_chat.prompts(DAY, 3),
    Prompt("show the owl red", "be brief"),
    Prompt("show the bee red", None, (Turn("user", "Hello"), Turn("assistant", "sure"))),
]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)


def test_answers_are_those_of_the_model_itself_in_order() -> None:
    chat = tiny_chat.chat()
    own = [chat.text(answer) for answer in chat.answer(chat.tokens(PROMPTS), 5, 4096)]
    assert len(set(own)) > 1
    with stand_in(answering(chat)) as server:
        served = ServedModel(server.address, "m", QUICK, at_once=3)
        assert served.answer_prompts(PROMPTS, 5) == own
        assert served.answer_prompts([], 5) == []
    asked = [body for _, _, body in server.requests]
    assert len(asked) == len(PROMPTS)
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in asked} == {("m", 0.0, 5)}


def test_no_more_requests_are_open_than_were_allowed() -> None:
    open_now, most = 0, 0

    def reply(number: int, body: Any) -> str:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        time.sleep(0.02)
        open_now -= 1
        return "sure"

    with stand_in(reply) as server:
        ServedModel(server.address, "m", QUICK, at_once=2).answer_prompts(PROMPTS, 5)
    assert most == 2


@pytest.mark.parametrize(
    ("reply", "fault", "asked"),
    [
        ((401, "no key"), r"status 401 no key; set \$VECTOMY_ENGINE_KEY$", 1),
        ((404, "no m"), r"status 404 no m; name the model \(openai:URL#MODEL\)", 1),
        ((429, "slow"), r"does not answer: status 429 slow \(2 times\); start it or correct the address", 2),
        ((200, "{'a'"), r"its reply is not JSON; check the address$", 1),
        ((200, "[]"), r"has no choices\[0\].message.content; use an OpenAI-compatible server$", 1),
        (ConnectionError, r"does not answer: .*\(2 times\); start it", 2),
        ((200, "half a", {"Content-Length": "999"}), r"does not answer: .*\(2 times\); start it", 2),
    ],
    ids=["401", "404", "429", "malformed", "no message", "hung up", "cut"],
)
def test_a_failure_is_one_sentence_with_its_remedy(reply: Reply, fault: str, asked: int) -> None:
    with stand_in(lambda number, body: reply) as server:
        with pytest.raises(EngineError, match=fault) as failed:
            ServedModel(server.address, "m", QUICK).answer_prompts(PROMPTS[:1], 5)
        assert len(server.requests) == asked
    assert f"the server at {server.address}/v1" in str(failed.value)
    assert "\n" not in str(failed.value)


def test_answers_before_a_failure_are_kept_and_nobody_waits_for_the_others(tmp_path: Path) -> None:
    """The second of two requests is silent when the third is refused."""

    def reply(number: int, body: Any) -> Reply:
        text = body["messages"][-1]["content"]
        return {"b": None, "c": (401, "no")}.get(text, f"{text} before")

    prompts, patience = [Prompt(text) for text in "abcd"], Patience(timeout=5.0, attempts=1)
    with stand_in(reply) as server:
        served = ServedModel(server.address, "m", patience, at_once=2)
        began = time.monotonic()
        with pytest.raises(EngineError, match="status 401"):
            served.answer_prompts(prompts, 5, journal=Journal(tmp_path / "a.journal", "x"))
        assert time.monotonic() - began < 4
        server.reply = lambda number, body: body["messages"][-1]["content"]
        journal = Journal(tmp_path / "a.journal", "x")
        assert served.answer_prompts(prompts, 5, journal=journal)[:3] == ["a before", "b", "c"]
    assert [body["messages"][-1]["content"] for _, _, body in server.requests].count("a") == 1


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineError, match=rf"the server at {address}/v1 does not answer: .*; start it or"):
        ServedModel(address, "m", QUICK).answer_prompts(PROMPTS, 5)


@pytest.mark.parametrize(("after", "least"), [("0.3", 0.3), ("soon", 0.0)])
def test_a_busy_server_is_asked_again_no_sooner_than_it_says(after: str, least: float) -> None:
    times: list[float] = []

    def reply(number: int, body: Any) -> Reply:
        times.append(time.monotonic())
        return (429, "slow down", {"Retry-After": after}) if number == 1 else "sure"

    with stand_in(reply) as server:
        assert ServedModel(server.address, "m", QUICK).answer_prompts(PROMPTS[:1], 5) == ["sure"]
    assert times[1] - times[0] >= least


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-secret")
    with stand_in(lambda number, body: (400, "your key sk-secret is odd")) as server:
        with pytest.raises(EngineError) as failed:
            ServedModel(server.address, "m", QUICK).answer_prompts(PROMPTS[:1], 5)
        assert server.requests[0][1]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("message", "answer", "finished"),
    [
        ('{"content": "Sure.", "reasoning_content": "Hm."}', "Sure.", True),
        ('{"content": null, "reasoning": "Hm, I"}', "", False),
        ('{"content": null, "refusal": "I cannot."}', "I cannot.", True),
        ('{"content": [{"type": "text", "text": "Su"}, {"type": "text", "text": "re."}]}', "Sure.", True),
        ('{"content": ""}', "", True),
    ],
)
def test_thoughts_and_parts_are_put_together(message: str, answer: str, finished: bool) -> None:
    """As a local model's text: no judge reads a thought, and one that was cut off is no answer."""
    body = f'{{"choices": [{{"message": {message}}}]}}'
    with stand_in(lambda number, asked: (200, body)) as server:
        (text,) = ServedModel(server.address, "m", QUICK).answer_prompts(PROMPTS[:1], 5)
    split = split_thoughts(text)
    assert (split.answer.strip(), split.finished) == (answer, finished)
