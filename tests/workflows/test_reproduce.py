"""A published model is rebuilt from its base: equal bytes match, and every difference is named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import published
import pytest
import tiny_chat
import torch
from hub_server import Hub
from safetensors.torch import load_file, save_file
from tiny import file_hashes

from vectomy.cli import main
from vectomy.comparison.folders import compare_tensors
from vectomy.core.errors import HubError, UsageError
from vectomy.edits.edit import Edit
from vectomy.hub import Item, upload
from vectomy.hub import look as look_at
from vectomy.hub.push import prepare, send
from vectomy.workflows.reproduce import reproduce

TIER = "chat"

REPO, BASE = "me/tiny-edited", "me/tiny-base"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run to spoil."""
    return Path(shutil.copytree(published.finished(), tmp_path / "run"))


def again(what: str | Path, **options: Any) -> Any:
    return reproduce(what, **{"base": str(published.base()), **options})


def put_base(folder: Path) -> None:
    """The base as a public repository."""
    files = [Item(file.name, file) for file in sorted(folder.iterdir())]
    upload(look_at(BASE), files, public=True)


def spoil(file: Path, name: str, steps: int = 1, index: int = 5) -> None:
    """Move one number of a tensor by some steps of its format."""
    tensors = load_file(file)
    tensors[name].view(torch.int32).view(-1)[index] += steps
    save_file(tensors, file, metadata={"format": "pt"})


# Match


def test_round_trip_through_the_hub_matches(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pushed, forgotten here, and rebuilt from two repositories alone."""
    put_base(published.base())
    send(prepare(published.finished(), REPO, base_model=BASE))
    found = reproduce(REPO, base=BASE)
    assert found.matches
    assert found.compared == len(load_file(published.finished() / "checkpoint" / "model.safetensors"))
    assert found.against == "what was published and the recorded hashes"
    assert found.edit_sha256 == Edit.load(published.finished() / "edit.safetensors").sha256
    monkeypatch.setattr(sys, "argv", ["vectomy", "reproduce", REPO, "--base", BASE])
    capsys.readouterr()
    main_ends_with(0)
    assert capsys.readouterr().out.startswith(f"MATCH: {REPO}: ")


def main_ends_with(status: int) -> None:
    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code or 0) == status


def test_a_base_on_the_hub_is_fetched_by_its_recorded_name_and_commit(hub: Hub, tmp_path: Path) -> None:
    """An Edit of a base from the Hub needs no --base; later commits of the base do not matter."""
    from vectomy.core.versions import versions
    from vectomy.edits.export import bake
    from vectomy.hub.provenance import record_in, write_record
    from vectomy.models import fetch

    put_base(published.base())
    source = fetch(BASE)
    edit = Edit.load(published.finished() / "edit.safetensors")
    bake(edit, source, tmp_path / "edited")
    write_record(tmp_path / "edited", "checkpoint", edit, model=BASE, source=source, versions=versions())
    record = record_in(tmp_path / "edited")
    assert record is not None
    assert record.base["model"] == BASE
    assert record.base["revision"] == source.name
    send(prepare(tmp_path / "edited", REPO))
    assert f'base_model: "{BASE}"' in hub.files(REPO)["README.md"].decode()
    assert reproduce(REPO).matches


@pytest.mark.parametrize(
    "what",
    [
        "",
        "checkpoint",
        "edit.safetensors",
        "MODEL_CARD.md",
        "checkpoint/vectomy/edit.safetensors",
        "checkpoint/README.md",
    ],
)
def test_everything_of_a_run_leads_to_the_same_comparison(what: str) -> None:
    found = again(published.finished() / what)
    assert found.matches
    assert found.form == "checkpoint"
    assert found.compared


def test_an_adapter_is_rebuilt_as_one(hub: Hub) -> None:
    assert again(published.adapter()).form == "adapter"
    send(prepare(published.adapter(), REPO, base_model="owner/tiny"))
    found = again(REPO)
    assert found.matches
    assert found.compared == len(load_file(published.adapter() / "adapter_model.safetensors"))


def test_an_edit_alone_matches_what_its_run_recorded(hub: Hub) -> None:
    """No weights are published; the hashes are."""
    send(prepare(published.finished() / "edit.safetensors", REPO))
    found = again(REPO)
    assert found.matches
    assert found.against == "the recorded hashes"
    assert found.compared


def test_a_card_that_was_sent_by_itself_leads_to_its_repository(hub: Hub, tmp_path: Path) -> None:
    send(prepare(published.finished(), REPO))
    (tmp_path / "card.md").write_bytes(hub.files(REPO)["README.md"])
    assert again(tmp_path / "card.md").matches
    text = (tmp_path / "card.md").read_text()
    mine = Edit.load(published.finished() / "edit.safetensors").sha256
    (tmp_path / "card.md").write_text(text.replace(mine, "0" * 64))
    found = again(tmp_path / "card.md")
    assert [d.kind for d in found.differences] == ["record"]
    assert "the card names the Edit 000000000000" in str(found.differences[0])


def test_an_edited_copy_of_an_edited_model_does_not_inherit_its_record(tmp_path: Path) -> None:
    """The record is of the one, and would be a lie beside the other."""
    from vectomy.checkpoint import Checkpoint
    from vectomy.edits.export import bake

    edited = published.finished() / "checkpoint"
    bake(Edit.ablation(edited, torch.ones(32), embeddings=False), edited, tmp_path / "twice")
    assert (edited / "vectomy").is_dir()
    assert not (tmp_path / "twice" / "vectomy").exists()
    assert Checkpoint.open(edited).other_weights == ()


def test_the_rebuilt_model_can_be_kept(tmp_path: Path) -> None:
    again(published.finished(), out=tmp_path / "kept")
    assert file_hashes(tmp_path / "kept").items() <= file_hashes(published.finished() / "checkpoint").items()


# What differs


@pytest.mark.parametrize("steps", [1, 1000])
def test_a_number_off_by_some_roundings_is_named_with_how_far(run: Path, steps: int) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    spoil(run / "checkpoint" / "model.safetensors", name, steps)
    found = again(run)
    assert not found.matches
    (difference,) = found.differences
    assert (difference.kind, difference.name, difference.steps) == ("tensor", name, steps)
    assert "1 of " in difference.text
    assert f"{steps:,} rounding step" in difference.text


def test_a_flipped_byte_in_the_repository_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    send(prepare(published.finished(), REPO))
    data = bytearray(hub.files(REPO)["model.safetensors"])
    data[-3] ^= 0x10
    hub.repos[REPO].branches["main"]["model.safetensors"] = bytes(data)
    monkeypatch.setattr(sys, "argv", ["vectomy", "reproduce", REPO, "--base", str(published.base())])
    capsys.readouterr()
    main_ends_with(1)
    out = capsys.readouterr().out
    last = list(Edit and load_file(published.finished() / "checkpoint" / "model.safetensors"))
    assert out.startswith("DIFFERS")
    named = [line.split(":")[0].split()[-1] for line in out.splitlines() if line.startswith("  tensor")]
    assert len(named) == 1
    assert named[0] in last


@pytest.mark.unit
def test_steps_are_counted_through_zero_and_signs(tmp_path: Path) -> None:
    """Oracle: nextafter, one step at a time."""
    one = torch.tensor([1.5, -1.5, 0.0, -0.0])
    other = one.clone()
    for _ in range(7):
        other = torch.nextafter(other, torch.full_like(other, float("inf")))
    for folder, value in (("a", one), ("b", other)):
        (tmp_path / folder).mkdir()
        save_file({"x": value}, tmp_path / folder / "adapter_model.safetensors")
    count, (difference,) = compare_tensors(tmp_path / "a", tmp_path / "b", "adapter")
    assert (count, difference.steps) == (1, 7)


def test_a_base_with_other_weights_is_said_and_nothing_is_rebuilt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(tiny_chat.folder(taught_=False))
    found = again(published.finished(), base=other)
    (difference,) = found.differences
    assert difference.kind == "base"
    assert Edit.load(published.finished() / "edit.safetensors").base.fingerprint[:12] in difference.text
    assert found.compared == 0
    monkeypatch.setattr(sys, "argv", ["vectomy", "reproduce", str(published.finished()), "--base", other])
    main_ends_with(1)
    assert "has weights" in capsys.readouterr().out


def test_a_changed_template_and_configuration_are_named(run: Path) -> None:
    """Weights as they should be, and a model that answers otherwise all the same."""
    (run / "checkpoint" / "chat_template.jinja").write_text("{{ 'always yes' }}")
    config = json.loads((run / "checkpoint" / "config.json").read_text())
    (run / "checkpoint" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    found = again(run)
    assert [(d.kind, d.name) for d in found.differences] == [
        ("file", "chat_template.jinja"),
        ("file", "config.json"),
    ]
    assert "rms_norm_eps" in found.differences[1].text


def test_a_tensor_more_or_less_is_named(run: Path) -> None:
    file = run / "checkpoint" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file({**tensors, "model.more": torch.zeros(2)}, file, metadata={"format": "pt"})
    found = again(run)
    assert {d.name: d.text for d in found.differences} == {
        "model.more": "published, but not rebuilt",
        "model.norm.weight": "rebuilt, but not published",
    }


def test_an_edit_put_in_the_place_of_another_is_named(run: Path) -> None:
    (Edit.load(run / "edit.safetensors") * 0.5).save(run / "edit.safetensors")
    kinds = {d.kind for d in again(run).differences}
    assert kinds == {"record", "tensor"}


def test_other_versions_are_said(run: Path) -> None:
    file = run / "checkpoint" / "vectomy" / "record.json"
    record = json.loads(file.read_text())
    record["versions"]["torch"] = "1.2.3"
    file.write_text(json.dumps(record))
    found = again(run)
    assert found.matches, "versions explain a difference, they are none"
    assert found.versions == {"torch": ("1.2.3", torch.__version__)}


def test_recorded_hashes_speak_where_the_weights_are_gone(hub: Hub, run: Path) -> None:
    file = run / "checkpoint" / "vectomy" / "record.json"
    record = json.loads(file.read_text())
    name = "model.layers.0.mlp.down_proj.weight"
    record["tensors"][name] = "0" * 64
    file.write_text(json.dumps(record))
    send(prepare(run / "edit.safetensors", REPO))
    (difference,) = again(REPO).differences
    assert difference.name == name
    assert "recorded 000000000000" in difference.text


# What cannot be compared


def test_without_a_base_or_anything_to_compare_it_says_what_to_give(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(UsageError, match="--base"):
        reproduce(published.finished())
    edit = Edit.load(published.finished() / "edit.safetensors")
    edit.save(tmp_path / "e.safetensors")
    with pytest.raises(UsageError, match="--against"):
        again(tmp_path / "e.safetensors")
    assert again(tmp_path / "e.safetensors", against=published.finished() / "checkpoint").matches
    with pytest.raises(UsageError, match="is not a file or folder"):
        reproduce("nothing")
    with pytest.raises(HubError, match="has no 'me/nothing'"):
        reproduce("me/nothing")
    with pytest.raises(UsageError, match="GGUF"):
        reproduce(published.gguf())


# From scratch


def test_the_search_done_again_finds_the_same_edit(hub: Hub, tmp_path: Path) -> None:
    """From the repository and the prompt files alone; with other prompts it says so."""
    send(prepare(published.finished(), REPO))
    files = tmp_path / "prompts"
    files.mkdir()
    for source in tiny_chat.sources().values():
        shutil.copy(source, files)
    found = again(REPO, from_scratch=True, prompts=files)
    assert found.searched
    assert found.matches, found.differences
    with pytest.raises(UsageError, match="--prompt-folder"):
        again(REPO, from_scratch=True)
    rows = json.loads((files / "positive.json").read_text())
    (files / "positive.json").write_text(json.dumps(rows[::-1]))
    kinds = [d.kind for d in again(REPO, from_scratch=True, prompts=files).differences]
    assert "prompts" in kinds
