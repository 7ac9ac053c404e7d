"""A type that the table lacks is built, probed and written down: the same row that the table would
have.
"""

import importlib
from pathlib import Path

import pytest
import torch
import zoo
from tiny import unit

from vectomy import Edit, bake, probe_architecture, verify
from vectomy.architecture import FAMILIES
from vectomy.core.errors import ArchitectureError, ModelError

TIER = "zoo"

# The package exports the function under the module's name.
MODULE = importlib.import_module("vectomy.models.probe_architecture")


@pytest.mark.parametrize(
    "label",
    [
        "llama",
        "gemma2",
        "gpt2",
        "bloom",
        "phi",
        "qwen3_5_text",
        "gpt_oss",
        "nanochat",
        "falcon:new_decoder_architecture",
    ],
)
def test_what_it_learns_is_what_the_table_says(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.zoo_folder(label, tmp_path / "in")
    known = Edit.ablation(tmp_path / "in", unit())
    monkeypatch.delitem(FAMILIES, zoo.ZOO[label].model_type)
    with pytest.raises(ArchitectureError, match="is not known"):
        Edit.ablation(tmp_path / "in", unit())
    family = probe_architecture(tmp_path / "in")
    monkeypatch.setitem(FAMILIES, zoo.ZOO[label].model_type, family)
    edit = Edit.ablation(tmp_path / "in", unit())
    assert [operation.sort_key for operation in edit.operations] == [
        operation.sort_key for operation in known.operations
    ]
    bake(edit, tmp_path / "in", tmp_path / "out")
    found = verify(tmp_path / "out", edit)
    assert (found.left, found.failures) == ((), ())
    assert found.max_projection < 1e-5


@pytest.mark.tiny
def test_a_known_type_is_not_probed(tiny_of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "probe", lambda model: pytest.fail("probed"))
    assert probe_architecture(tiny_of().folder) is None


def test_tensors_under_other_names_than_the_model_s_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.zoo_folder("mixtral", tmp_path / "in")
    monkeypatch.delitem(FAMILIES, "mixtral")
    with pytest.raises(ArchitectureError, match="does not exist in the model"):
        probe_architecture(tmp_path / "in")
    assert "mixtral" not in FAMILIES


def test_a_stream_that_no_edit_can_follow_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.zoo_folder("minimax", tmp_path / "in")
    monkeypatch.delitem(MODULE.REFUSED, "minimax")
    with pytest.raises(ArchitectureError, match=r"does not pass 'model\.layers\.0' unchanged"):
        probe_architecture(tmp_path / "in")


def test_a_model_too_large_to_build_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.zoo_folder("llama", tmp_path / "in")
    monkeypatch.delitem(FAMILIES, "llama")
    monkeypatch.setattr(MODULE, "available_memory", lambda: 1000)
    with pytest.raises(ModelError, match="use a larger machine"):
        probe_architecture(tmp_path / "in")
    assert torch.is_grad_enabled()
