"""A push sends what it shows, whole or not at all, to nobody but who was asked; an interrupted one
goes on.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import published
import pytest
from hub_server import Hub
from push_calls import REPO, matter, push

from vectomy.core.errors import ArtifactError, HubError, UsageError
from vectomy.edits.edit import Edit
from vectomy.hub.push import prepare

TIER = "chat"


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
