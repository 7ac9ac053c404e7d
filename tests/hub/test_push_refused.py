"""What the Hub, the card or the folder refuses, and what `vectomy push` says then."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import socket
import sys
from pathlib import Path

import published
import pytest
import tiny_chat
from hub_server import Hub
from push_calls import REPO, command, matter, push

from vectomy.core.errors import HubError, UsageError
from vectomy.edits.edit import Edit
from vectomy.hub import Item, look, upload
from vectomy.hub.published_source import published_source_of
from vectomy.hub.push import prepare
from vectomy.workflows.repeat_search import search_again

TIER = "chat"


# Refusals


@pytest.mark.parametrize(
    ("method", "pattern", "status", "words"),
    [
        ("GET", "/api/models/", 401, "hf auth login"),
        ("POST", "/api/repos/create", 403, "no such right for 'me'"),
        ("POST", "/commit/", 409, "someone else changed"),
        ("POST", "/preupload/", 429, "wait 60 seconds"),
        ("PUT", "/large/", 500, "the Hub has trouble"),
        ("POST", "/objects/batch", 403, "storage"),
        ("POST", "/commit/", 413, "fewer files"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_remedy(
    hub: Hub, method: str, pattern: str, status: int, words: str
) -> None:
    hub.answers.append((method, pattern, status, {"Retry-After": "60"}, "said by the stand-in"))
    with pytest.raises(HubError, match=words) as caught:
        push(published.finished())
    assert f"status {status}" in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_token_and_no_network_are_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.delenv("HF_TOKEN")
        with pytest.raises(HubError, match="hf auth login"):
            prepare(published.finished(), REPO)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="cannot be reached"):
        prepare(published.finished(), REPO)


def test_a_card_that_the_hub_does_not_take_stops_the_push(hub: Hub) -> None:
    found = prepare(published.finished(), REPO, base_model="owner/tiny")
    items = [i for i in found.upload.items if i.name != "README.md"]
    with pytest.raises(HubError, match="base_model"):
        upload(found.destination, [*items, Item("README.md", b'---\nbase_model: "not an id"\n---\n')])
    assert hub.files(REPO) == {}


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "me/", "/x", "me/with space", "../x"])
def test_a_name_that_is_no_repository_is_refused(hub: Hub, name: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        look(name)
    assert hub.seen == []


def test_what_is_nothing_to_publish_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        prepare(tmp_path / "nothing", REPO)
    with pytest.raises(UsageError, match="nothing to publish"):
        prepare(tmp_path, REPO)


def test_a_large_file_is_known_by_its_hash(hub: Hub) -> None:
    push(published.gguf(), source=published.finished())
    assert hub.puts[hashlib.sha256(published.gguf().read_bytes()).hexdigest()] == 1


def test_the_command_shows_what_it_sends_and_where(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = str(published.finished())
    status, out, err = command(
        monkeypatch, capsys, given, REPO, "--dry-run", "--json", "--base", "owner/tiny"
    )
    assert status == 0
    assert hub.repos == {}
    assert (
        json.loads(out)["files"]["model.safetensors"]
        == (published.finished() / "checkpoint" / "model.safetensors").stat().st_size
    )
    assert "not looked at, private if new" in err
    assert "owner/tiny" in err
    status, out, err = command(monkeypatch, capsys, given, REPO, "--yes")
    assert status == 0
    assert f"{REPO} (private)" in out
    assert hub.repos[REPO].private
    status, out, err = command(monkeypatch, capsys, given, REPO, "--yes", "--json")
    assert json.loads(out)["private"] is True
    assert "exists, private" in err


def test_a_dry_run_needs_neither_token_nor_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    # By its name: the package has a function of the same one.
    monkeypatch.setattr(importlib.import_module("vectomy.hub.upload"), "client", refuse)
    given = (str(published.finished()), REPO, "--dry-run", "--base", "owner/tiny")
    status, out, err = command(monkeypatch, capsys, *given)
    assert status == 0, err
    assert out.startswith("---\n")
    assert 'base_model: "owner/tiny"' in out
    assert "model.safetensors" in err
    status, shown, _ = command(monkeypatch, capsys, *given, "--json")
    planned = json.loads(shown)
    assert (planned["exists"], planned["private"]) == (None, None)
    assert planned["card"] + "\n" == out
    assert sum(planned["files"].values()) > len(planned["card"].encode())
    assert command(monkeypatch, capsys, given[0], "no name", "--dry-run")[0] == 2


def test_headless_a_public_repository_needs_the_word(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(published.finished() / "edit.safetensors", public=True)
    held = hub.files(REPO)
    status, _, err = command(monkeypatch, capsys, str(published.finished()), REPO, "--yes")
    assert status == 1
    assert "with --public" in err
    assert "exists, PUBLIC" in err
    assert hub.files(REPO) == held
    assert command(monkeypatch, capsys, str(published.finished()), REPO, "--yes", "--public")[0] == 0
    assert "model.safetensors" in hub.files(REPO)


@pytest.mark.parametrize("answer", [True, False])
def test_at_a_terminal_it_asks(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text, **_: asked.append(text) or answer)
    push(published.finished() / "edit.safetensors", "me/open", public=True)
    for repo, question in ((REPO, "Send?"), ("me/open", "is public. Publish there?")):
        status, _, _ = command(monkeypatch, capsys, str(published.finished()), repo)
        assert status == (0 if answer else 1)
        assert asked.pop().endswith(question)
        assert (repo in hub.repos and "model.safetensors" in hub.files(repo)) == answer


def test_a_card_by_hand_is_sent_as_it_is(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    push(published.finished(), card=tmp_path / "card.md")
    assert hub.files(REPO)["README.md"] == (tmp_path / "card.md").read_bytes()


def test_the_demo_is_named_as_what_it_is(hub: Hub, tmp_path: Path) -> None:
    """Its weights are nowhere on the Hub: the card links to what they come from and says so, an
    adapter's base keeps its name.
    """
    from dataclasses import replace

    edit = Edit.load(published.finished() / "edit.safetensors")
    replace(edit, base=replace(edit.base, name="demo")).save(tmp_path / "edit.safetensors")
    push(tmp_path / "edit.safetensors")
    card = hub.files(REPO)["README.md"].decode()
    assert matter(hub)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert matter(hub)["license"] == "apache-2.0"
    assert "with a small adapter merged" in card


@pytest.mark.parametrize(
    ("judge", "shown"),
    [
        ("openai:http://10.1.2.3:8080/v1#judge", "openai:judge"),
        ("openai:https://a.internal:8080#folder/judge", "openai:judge"),
        ("openai:http://10.1.2.3", "openai:server"),
        ("refusal", "refusal"),
    ],
)
def test_what_is_published_of_a_run_names_no_address_of_a_server(
    tmp_path: Path, judge: str, shown: str
) -> None:
    run = Path(shutil.copytree(published.finished(), tmp_path / "run"))
    for name in ("config", "summary"):
        stored = json.loads((run / f"{name}.json").read_text())
        told = (
            {"judge": judge} if name == "config" else {"command": f"vectomy run m --judge '{judge}' --out x"}
        )
        (run / f"{name}.json").write_text(json.dumps({**stored, **told}))
    result = published_source_of(run).run_json()
    assert result is not None
    assert result["config"]["judge"] == shown
    assert result["summary"]["command"] == f"vectomy run m --judge '{shown}' --out x"
    if judge != shown:
        edit = Edit.load(run / "edit.safetensors")
        with pytest.raises(UsageError, match=rf"the judge of the search was {shown} .*--from-scratch"):
            search_again(result, edit, str(published.base()), tmp_path / "again")


def test_what_is_published_names_no_folder_of_this_machine(hub: Hub) -> None:
    """The run's prompts and base are files in a temporary folder; their names go along, their
    places do not.
    """
    push(published.finished())
    run = json.loads(hub.files(REPO)["vectomy/run.json"])
    assert run["config"]["contrast"]["positive"]["prompts"] == "positive.json"
    assert run["config"]["model"] == "tiny-base"
    sent = b"".join(hub.files(REPO).values())
    for folder in (
        published.finished().parent,
        Path(tiny_chat.sources()["positive"]).parent,
        published.base().parent,
    ):
        assert str(folder).encode() not in sent
