"""A push sends what it shows, whole or not at all, to nobody but who was asked; an interrupted one
goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import published
import pytest
import tiny_chat
import yaml
from hub_server import Hub, connected

import vectomy
from vectomy.cli import main
from vectomy.core.errors import ArtifactError, HubError, UsageError
from vectomy.edits.edit import Edit
from vectomy.hub import Item, look, upload
from vectomy.hub.push import prepare

TIER = "chat"

REPO = "me/tiny-edited"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with connected(monkeypatch, tmp_path / "home") as hub:
        yield hub


def push(path: Path, repo_id: str = REPO, **options: Any) -> Any:
    return vectomy.push(path, repo_id, **options)


def matter(hub: Hub, repo_id: str = REPO) -> dict[str, Any]:
    return dict(yaml.safe_load(hub.files(repo_id)["README.md"].decode().split("---\n")[1]))


def in_shards(folder: Path, out: Path) -> Path:
    """The same checkpoint in three files of more than a megabyte each, so that they are sent as
    large ones.
    """
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, out)
    (out / "model.safetensors").unlink()
    (out / "vectomy" / "record.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for number in range(3):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        part = {name: tensors[name] for name in names[number::3]}
        part[f"extra.{number}"] = torch.rand(300_000, generator=torch.Generator().manual_seed(number))
        save_file(part, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return out


# What is sent


def test_a_run_becomes_a_private_repository_that_is_its_checkpoint_with_a_card(hub: Hub) -> None:
    sent = push(published.finished())
    run, files = published.finished(), hub.files(REPO)
    assert hub.repos[REPO].private
    assert sent.private
    for file in (run / "checkpoint").rglob("*"):
        name = file.relative_to(run / "checkpoint").as_posix()
        if file.is_file() and name != "README.md":
            assert files.pop(name) == file.read_bytes(), name
    assert set(files) == {"README.md", "vectomy/run.json"}
    assert json.loads(files["vectomy/run.json"])["edit_sha256"] == Edit.load(run / "edit.safetensors").sha256


def test_the_card_has_base_licence_numbers_command_and_warning(hub: Hub) -> None:
    push(published.finished(), base_model="owner/tiny", evaluations=(published.evaluation(),))
    head, card = matter(hub), hub.files(REPO)["README.md"].decode()
    edit = Edit.load(published.finished() / "edit.safetensors")
    assert head["base_model"] == "owner/tiny"
    assert head["base_model_relation"] == "finetune"
    assert head["license"] == "other"
    assert head["license_name"] == "tiny-licence"
    assert head["license_link"] == "https://example.org/licence"
    assert head["library_name"] == "transformers"
    assert {"vectomy", "abliterated"} <= set(head["tags"])
    assert head["vectomy"] == {
        "kind": "checkpoint",
        "repository": REPO,
        "base_fingerprint": edit.base.fingerprint,
        "edit_sha256": edit.sha256,
    }
    summary = json.loads((published.finished() / "summary.json").read_text())
    low, high = summary["edited"]["refusal_ci"]
    assert f"{100 * low:.1f}–{100 * high:.1f}%" in card
    assert summary["safety"] in card
    assert "vectomy run tiny-base" in card
    assert f"vectomy reproduce {REPO}" in card
    assert "35.0% (7 of 20, 18.0–57.0%)" in card
    assert "acc 0.412, standard error 0.020" in card
    assert "random direction" not in card


def test_an_adapter_is_sent_with_the_base_that_peft_looks_for(hub: Hub) -> None:
    push(published.adapter(), base_model="owner/tiny")
    files = hub.files(REPO)
    config = json.loads(files["adapter_config.json"])
    assert config == {
        **json.loads((published.adapter() / "adapter_config.json").read_text()),
        "base_model_name_or_path": "owner/tiny",
    }
    assert (
        files["adapter_model.safetensors"] == (published.adapter() / "adapter_model.safetensors").read_bytes()
    )
    assert set(files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "edit.safetensors",
        "vectomy/record.json",
    }
    assert matter(hub)["library_name"] == "peft"
    assert matter(hub)["base_model_relation"] == "adapter"
    assert "not measured" in files["README.md"].decode()


def test_an_edit_is_sent_alone_with_the_record_of_its_run(hub: Hub) -> None:
    push(published.finished() / "edit.safetensors")
    files = hub.files(REPO)
    assert set(files) == {"README.md", "edit.safetensors", "vectomy/record.json", "vectomy/run.json"}
    assert files["edit.safetensors"] == (published.finished() / "edit.safetensors").read_bytes()
    assert matter(hub)["library_name"] == "vectomy"


def test_a_gguf_is_sent_with_what_the_run_says_of_it(hub: Hub) -> None:
    with pytest.raises(UsageError, match="--from"):
        prepare(published.gguf(), REPO)
    push(published.gguf(), source=published.finished(), base_model="owner/tiny")
    files = hub.files(REPO)
    assert files["tiny-q8_0.gguf"] == published.gguf().read_bytes()
    assert matter(hub)["base_model_relation"] == "quantized"
    assert "gguf" in matter(hub)["tags"]
    assert "measured before the conversion to GGUF" in files["README.md"].decode()
    assert "vectomy/edit.safetensors" in files


def test_another_strength_does_not_borrow_the_numbers_of_the_run(hub: Hub, tmp_path: Path) -> None:
    half = Edit.load(published.finished() / "edit.safetensors") * 0.5
    half.save(tmp_path / "half.safetensors")
    found = prepare(tmp_path / "half.safetensors", REPO, source=published.finished())
    assert "its numbers are left out" in " ".join(found.upload.notes)
    assert "What the edit does to the model's answers was not measured" in found.upload.card
    assert "| base |" not in found.upload.card


def test_a_base_without_a_name_on_the_hub_is_not_linked(hub: Hub) -> None:
    found = prepare(published.finished(), REPO)
    assert "base_model:" not in found.upload.card
    assert any("--base" in note for note in found.upload.notes)


def test_other_weights_and_hidden_files_stay_here(hub: Hub, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published.finished() / "checkpoint", tmp_path / "model"))
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / ".netrc").write_text("machine huggingface.co password x")
    sent = push(folder)
    assert "optimizer.pt" not in hub.files(REPO)
    assert ".netrc" not in hub.files(REPO)
    assert sent.files == len(hub.files(REPO))
    assert prepare(folder, REPO).upload.left == (("optimizer.pt", "pickle, which can run code"),)


def test_a_checkpoint_with_another_edits_record_is_refused(hub: Hub, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published.finished() / "checkpoint", tmp_path / "model"))
    (Edit.load(published.finished() / "edit.safetensors") * 0.5).save(folder / "vectomy" / "edit.safetensors")
    with pytest.raises(ArtifactError, match="apply the Edit again"):
        prepare(folder, REPO)


def test_weights_that_were_changed_afterwards_are_not_labelled_with_the_edit(
    hub: Hub, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(published.finished() / "checkpoint", tmp_path / "model"))
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ArtifactError, match="changed after the Edit was applied"):
        prepare(folder, REPO)
    shutil.rmtree(folder / "vectomy")
    found = prepare(folder, REPO, source=published.finished())
    assert any("nobody has measured" in note for note in found.upload.notes)
    assert "vectomy/record.json" not in {item.name for item in found.upload.items}


# Private unless asked


def test_public_only_when_asked(hub: Hub) -> None:
    push(published.finished() / "edit.safetensors", "me/a", public=True)
    push(published.finished() / "edit.safetensors", "me/b")
    assert not hub.repos["me/a"].private
    assert hub.repos["me/b"].private


def test_a_public_repository_gets_nothing_unasked(hub: Hub) -> None:
    push(published.finished() / "edit.safetensors", "me/a", public=True)
    before = dict(hub.repos["me/a"].branches["main"])
    sent = hub.count("POST", "/commit/")
    with pytest.raises(HubError, match="--public"):
        push(published.finished(), "me/a")
    assert hub.repos["me/a"].branches["main"] == before
    assert hub.count("POST", "/commit/") == sent


def test_a_hub_that_makes_it_public_all_the_same_gets_nothing(hub: Hub) -> None:
    hub.makes_public = True
    with pytest.raises(HubError, match="is public; nothing was sent"):
        push(published.finished())
    assert hub.files(REPO) == {}
    assert hub.count("POST", "/preupload/") == 0


# Interruptions


def test_an_interrupted_push_sends_only_what_is_missing(hub: Hub, tmp_path: Path) -> None:
    folder = in_shards(published.finished() / "checkpoint", tmp_path / "model")
    hub.break_after, hub.break_from = 100_000, 1
    with pytest.raises(HubError, match="run the same command again"):
        push(folder)
    assert len(hub.puts) == 1, "one file arrived, the second was broken off"
    assert hub.files(REPO) == {}, "a reader sees nothing of a push that is not whole"
    hub.break_after = None
    push(folder)
    files = hub.files(REPO)
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "README.md":
            assert files[file.relative_to(folder).as_posix()] == file.read_bytes()
    assert set(hub.puts.values()) == {1}, "nothing arrived twice"
    puts, commits = dict(hub.puts), hub.count("POST", "/commit/")
    push(folder)
    assert dict(hub.puts) == puts
    assert hub.count("POST", "/commit/") == commits, "what is there already makes no commit"


def test_the_same_push_is_the_same_bytes(hub: Hub) -> None:
    one, other = (prepare(published.finished(), REPO).upload.items for _ in range(2))
    content = [(i.name, i.source if isinstance(i.source, bytes) else i.source.read_bytes()) for i in one]
    assert content == [
        (i.name, i.source if isinstance(i.source, bytes) else i.source.read_bytes()) for i in other
    ]


def test_what_the_hub_holds_afterwards_is_looked_at(hub: Hub) -> None:
    hub.spoils = "model.safetensors"
    with pytest.raises(HubError, match="differs from the file that was sent"):
        push(published.finished())


def test_other_files_stay_or_go_as_asked(hub: Hub) -> None:
    push(published.finished())
    sent = push(published.finished() / "edit.safetensors")
    assert "model.safetensors" in sent.remaining
    assert "model.safetensors" in hub.files(REPO)
    push(published.finished() / "edit.safetensors", replace=True)
    assert set(hub.files(REPO)) == {
        "README.md",
        "edit.safetensors",
        "vectomy/record.json",
        "vectomy/run.json",
    }


def test_a_branch_of_its_own(hub: Hub) -> None:
    push(published.finished() / "edit.safetensors")
    main = hub.files(REPO)
    push(published.finished(), revision="strong")
    assert hub.files(REPO) == main
    assert "model.safetensors" in hub.files(REPO, "strong")


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


# The command


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["vectomy", "push", *given])
    monkeypatch.setenv("COLUMNS", "160")
    capsys.readouterr()
    status = 0
    try:
        main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


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
    assert "new, private" in err
    assert "owner/tiny" in err
    status, out, err = command(monkeypatch, capsys, given, REPO, "--yes")
    assert status == 0
    assert f"{REPO} (private)" in out
    assert hub.repos[REPO].private
    status, out, err = command(monkeypatch, capsys, given, REPO, "--yes", "--json")
    assert json.loads(out)["private"] is True
    assert "exists, private" in err


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
