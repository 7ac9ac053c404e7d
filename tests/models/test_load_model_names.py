"""`load_model` takes folders and the demo models, and says what works for other names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_chat

import vectomy
from vectomy.core.errors import CheckpointError
from vectomy.models import demo, load_layerwise

TIER = "chat"


@pytest.mark.parametrize("load", [vectomy.load_model, load_layerwise])
def test_a_name_of_the_hub_is_told_what_works(load: Callable[[str], object]) -> None:
    with pytest.raises(CheckpointError) as error:
        load("Qwen/Qwen3-4B")
    assert "vectomy.wrap(model, tokenizer)" in str(error.value)
    assert "OWNER/NAME" not in str(error.value)


def test_a_folder_that_is_absent_is_not_sent_to_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="give a folder with config") as error:
        vectomy.load_model(tmp_path / "none")
    assert "Hub" not in str(error.value)


@pytest.mark.parametrize("name", ["demo", "demo-base"])
def test_the_demo_is_loaded_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "model_folder", {name: tiny_chat.folder()}.__getitem__)
    chat = vectomy.load_model(name, device="cpu")
    assert (chat.checkpoint.path, chat.name) == (tiny_chat.folder(), name)


def test_a_run_that_is_mistyped_is_said_to_be_no_folder_before_the_hub_is(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_line = request.getfixturevalue("vectomy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for command in ("show", "chat"):
        status, _, err = command_line(command, "runs/mine")
        assert status == 1
        assert "no folder runs/mine here (`vectomy ls` lists runs)" in err
        assert err.count("runs/mine") == 1
