"""A token appears in the Authorization header of a request to the Hub, and nowhere else."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import traceback
from pathlib import Path

import published
import pytest
from hub_server import TOKEN, Hub

from vectomy.cli import main
from vectomy.core.errors import HubError, LeakError
from vectomy.hub import check_leaks, find_leaks
from vectomy.hub.client import redact
from vectomy.hub.leaks import BLOCK
from vectomy.hub.push import prepare, send

TIER = "chat"

REPO = "me/tiny-edited"
# Not the one in the environment: known by its shape alone.
OTHER = "hf_" + "ZyXwVuTsRqPoNmLkJiHgFeDcBa98765432"


def safetensors(metadata: dict[str, str], data: bytes = b"\0" * 8) -> bytes:
    header = json.dumps(
        {"__metadata__": metadata, "x": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    )
    return struct.pack("<Q", len(header)) + header.encode() + data


# Finding


@pytest.mark.parametrize("token", [TOKEN, OTHER])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("config.json", lambda t: json.dumps({"a": {"b": f"x{t[:0]} {t}"}}).encode()),
        ("README.md", lambda t: f"# Card\n\nexport HF_TOKEN={t}\n".encode()),
        ("tokenizer.json", lambda t: json.dumps({"vocab": {t: 1}}).encode()),
        ("chat_template.jinja", lambda t: f"{{# {t} #}}".encode()),
        ("code.py", lambda t: f'TOKEN = "{t}"'.encode()),
        ("Modelfile", lambda t: f"# {t}\nFROM x".encode()),
        ("model.safetensors", lambda t: safetensors({"made_with": t})),
        ("model.safetensors", lambda t: safetensors({}, b"\0\1\2" * 50 + t.encode() + b"\0" * 20)),
        ("model.gguf", lambda t: b"GGUF\3\0\0\0" + bytes(9000) + t.encode() + bytes(10)),
        ("spiece.model", lambda t: b"\0\1" + t.encode()),
        (f"notes-{TOKEN}.txt", lambda t: b"nothing"),
    ],
)
def test_a_token_is_found_in_every_kind_of_file(
    hub: Hub, tmp_path: Path, name: str, make, token: str
) -> None:
    data = make(token)
    assert not find_leaks("ok.txt", b"hf_hub_download and hf_transfer are words; so is hf_xxx")
    for source in (data, tmp_path / "file"):
        (tmp_path / "file").write_bytes(data)
        found = find_leaks(name, source)
        assert any(leak.token for leak in found), name
        with pytest.raises(LeakError) as caught:
            check_leaks(found, allow_paths=True)
        assert token not in str(caught.value)
        assert TOKEN not in str(caught.value)


def test_a_token_across_two_blocks_is_found_with_its_line(hub: Hub, tmp_path: Path) -> None:
    before = ("line\n" * (BLOCK // 5 + 1))[: BLOCK - 10]
    (tmp_path / "long.txt").write_text(before + OTHER + "\n")
    (leak,) = find_leaks("long.txt", tmp_path / "long.txt")
    assert leak.line == before.count("\n") + 1


@pytest.mark.parametrize(
    "text",
    [
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2" * 9,
        "sk-proj-" + "a1B2" * 8,
        "AKIA" + "A1B2" * 4,
        "-----BEGIN RSA PRIVATE KEY-----",
        "Authorization: Bearer abcdefgh12345678",
    ],
)
def test_other_keys_are_found_in_texts(hub: Hub, text: str) -> None:
    assert [leak.token for leak in find_leaks("a.txt", f"x {text}".encode())] == [True]


@pytest.mark.parametrize(
    "text", ["task-specific-instructions-for-all-of-them", "hf_" + "a" * 10, "risk-averse", "AKIA"]
)
def test_words_are_no_tokens(hub: Hub, text: str) -> None:
    assert find_leaks("a.txt", text.encode()) == []


@pytest.mark.parametrize("name", ["VECTOMY_JUDGE_KEY", "VECTOMY_ENGINE_KEY"])
def test_a_key_of_a_chat_endpoint_is_found_too(hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "an-invented-key-1")
    assert find_leaks("a.gguf", b"\0\1an-invented-key-1")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"_name_or_path": "/home/sam/models/x"}'),
        ("run.json", '{"path": "C:\\\\Users\\\\sam\\\\x"}'),
        ("a.txt", "see /Users/sam/x"),
        ("README.md", f"from {Path.cwd()}/runs"),
    ],
)
def test_paths_stop_a_push_unless_allowed(hub: Hub, name: str, text: str) -> None:
    found = find_leaks(name, text.encode())
    with pytest.raises(LeakError, match="--allow-paths") as caught:
        check_leaks(found)
    assert "sam" not in str(caught.value)
    check_leaks(found, allow_paths=True)


def test_a_path_in_the_metadata_of_a_safetensors_file_is_found(hub: Hub) -> None:
    assert find_leaks("model.safetensors", safetensors({"source": "/home/sam/models/x"}))
    assert not find_leaks("model.safetensors", safetensors({"format": "pt"}))


def test_vocabularies_may_hold_what_looks_like_a_path(hub: Hub) -> None:
    assert find_leaks("tokenizer.json", b'{"/home/user/": 1}') == []
    assert find_leaks("tokenizer.json", f'{{"{Path.cwd()}/x": 1}}'.encode())


# Pushing


@pytest.mark.parametrize("name", ["config.json", "notes.txt", "vectomy/record.json"])
def test_a_push_stops_before_it_sends_and_names_the_file(hub: Hub, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(published.finished() / "checkpoint", tmp_path / "model"))
    value = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps({**value, "comment": f"pushed with {OTHER}"}))
    with pytest.raises(LeakError, match=f"{name}, line 1: a Hugging Face token"):
        prepare(folder, REPO)
    assert hub.seen == []


def test_a_card_is_looked_through_as_well(hub: Hub, tmp_path: Path) -> None:
    """The command line that found the edit goes into the card, whatever it held."""
    run = Path(shutil.copytree(published.finished(), tmp_path / "run"))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "command": f"HF_TOKEN={OTHER} vectomy run x"}))
    with pytest.raises(LeakError, match=r"README\.md"):
        prepare(run, REPO)


def everything(folder: Path) -> bytes:
    return b"\n".join(path.name.encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_token_is_in_the_header_and_nowhere_else(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A whole push, an interrupted one and a refused one, with every logger talking."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    for name in ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "vectomy"):
        caplog.set_level(logging.DEBUG, logger=name)
    said: list[str] = []
    written = tmp_path / "run"
    shutil.copytree(published.finished(), written)
    for breaks, answers in ((1000, []), (None, [("POST", "/commit/", 500, {}, f"no, {TOKEN}")]), (None, [])):
        hub.break_after, hub.answers = breaks, answers
        try:
            send(prepare(written, REPO), log=said.append)
        except HubError as error:
            said += [str(error), repr(error), "".join(traceback.format_exception(error))]
    monkeypatch.setattr(
        sys,
        "argv",
        ["vectomy", "push", str(published.gguf()), "me/other", "--from", str(written), "--yes", "--json"],
    )
    main_status = _main()
    out, err = capsys.readouterr()
    assert main_status == 0, err
    assert {seen.authorized for seen in hub.seen if seen.authorized} == {f"Bearer {TOKEN}"}
    assert hub.files(REPO)["model.safetensors"]
    for where, text in {
        "requests": hub.everything(),
        "stdout": out.encode(),
        "stderr": err.encode(),
        "log": caplog.text.encode(),
        "messages": "\n".join(said).encode(),
        "files": everything(tmp_path),
        "cache": everything(tmp_path / "home") if (tmp_path / "home").exists() else b"",
    }.items():
        assert TOKEN.encode() not in text, where
    assert "hf_…" in "\n".join(said), "the server repeated it, and what we said of it did not"


def _main() -> int:
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_process_of_its_own_writes_and_says_no_token(hub: Hub, tmp_path: Path) -> None:
    """As a person runs it: HF_TOKEN in the environment, HF_ENDPOINT at the stand-in, tracebacks and
    the library's debugging on.
    """
    home = tmp_path / "home"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_DEBUG": "1",
        "VECTOMY_DEBUG": "1",
    }
    command = [sys.executable, "-m", "vectomy.cli", "push", str(published.finished()), REPO, "--yes"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/{REPO}/commit/" in done.stdout
    assert "new, private" in done.stderr
    hub.answers.append(("POST", "/commit/", 403, {}, "no"))
    (published_elsewhere := [*command])[-2] = "me/second"
    failed = subprocess.run(
        published_elsewhere, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert failed.returncode == 1
    for text in (done.stdout, done.stderr, failed.stdout, failed.stderr):
        assert TOKEN not in text
    assert TOKEN.encode() not in everything(tmp_path)
    assert TOKEN.encode() not in hub.everything()


def test_redacting_hides_what_is_in_the_environment_and_what_looks_like_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "not-shaped-like-one")
    assert redact(f"a not-shaped-like-one b {OTHER}\nc") == "a hf_… b hf_… c"


def test_a_token_that_a_long_answer_repeats_is_hidden_before_the_answer_is_cut(hub: Hub) -> None:
    """Half of a token is half of a secret: the answer is longer than what is shown, and the token
    lies across the end.
    """
    hub.answers.append(("POST", "/commit/", 403, {}, "x" * 190 + TOKEN + "y" * 50))
    with pytest.raises(HubError) as caught:
        send(prepare(published.finished() / "edit.safetensors", REPO))
    assert TOKEN[:8] not in str(caught.value)
