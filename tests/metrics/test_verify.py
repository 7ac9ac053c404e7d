"""`verify` measures what a checkpoint carries; it does not believe a record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file
from tiny import LAYERS, WIDTH, Tiny, build, orthonormal, tokens, unit

from vectomy import Edit, bake, verify
from vectomy.core.errors import FingerprintError
from vectomy.metrics.direction_share import projections
from vectomy.metrics.verify import removed_directions

TIER = "tiny"

TOKENS = tokens().tolist()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Edit, Path]:
    folder = tmp_path_factory.mktemp("pair")
    tiny = build(folder / "base", "llama", tied=True)
    edit = Edit.ablation(tiny.folder, unit())
    bake(edit, tiny.folder, folder / "edited")
    return tiny, edit, folder / "edited"


def test_an_edited_checkpoint_carries_the_edit_and_its_stream_lacks_the_direction(pair) -> None:
    tiny, edit, edited = pair
    for base in (None, tiny.folder):
        receipt = verify(edited, edit, base=base)
        assert len(receipt.edited) == 1 + 2 * LAYERS
        assert (receipt.left, receipt.failures) == ((), ())
        assert len(receipt.projection) == LAYERS + 1
        assert receipt.max_projection < 1e-5


def test_the_unedited_base_carries_nothing(pair) -> None:
    tiny, edit, _ = pair
    for base, words in ((None, "still writes along"), (tiny.folder, "as in the base")):
        receipt = verify(tiny.folder, edit, base=base)
        assert receipt.edited == ()
        assert len(receipt.failures) == len(receipt.left) == 1 + 2 * LAYERS
        assert all(words in reason for _, reason in receipt.left)
        assert receipt.max_projection > 0.1


@pytest.mark.parametrize("given", [None, [[5] * 90]])
def test_texts_are_cut_at_the_positions_of_a_model(tmp_path: Path, given: list[list[int]] | None) -> None:
    """Positions of GPT-2 are rows of a table, and a text has more tokens."""
    tiny = build(tmp_path / "base", "gpt2", n_positions=20, max_position_embeddings=20)
    edit = Edit.ablation(tiny.folder, unit())
    bake(edit, tiny.folder, tmp_path / "edited")
    receipt = verify(tmp_path / "edited", edit, tokens=given)
    assert not any("not measured" in note for note in receipt.notes)
    assert receipt.max_projection < 1e-5
    assert "cut at its 20 positions" in receipt.how


@pytest.mark.parametrize("base", [True, False])
def test_one_writer_that_was_missed_is_named(pair, tmp_path: Path, base: bool) -> None:
    tiny, edit, edited = pair
    missed = "model.layers.2.mlp.down_proj.weight"
    shutil.copytree(edited, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights[missed] = load_file(tiny.folder / "model.safetensors")[missed]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    receipt = verify(tmp_path, edit, base=tiny.folder if base else None)
    assert receipt.failures == (missed,)
    assert receipt.projection[2] < 1e-5 < 1e-2 < receipt.projection[3]


def test_other_damage_is_told_from_the_edit(pair, tmp_path: Path) -> None:
    tiny, edit, edited = pair
    touched = "model.layers.1.self_attn.o_proj.weight"
    shutil.copytree(edited, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    noise = torch.randn(weights[touched].shape, generator=torch.Generator().manual_seed(3)) * 0.1
    # Noise without a part along the direction: the stream shows nothing of it.
    weights[touched] += noise - unit()[:, None] * (unit() @ noise)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert verify(tmp_path, edit).failures == ()
    receipt = verify(tmp_path, edit, base=tiny.folder)
    assert receipt.failures == (touched,)
    assert "in more than the edit" in dict(receipt.left)[touched]


def test_partial_strengths_need_the_base(tmp_path: Path, tiny_of) -> None:
    tiny = tiny_of("qwen2")
    edit = Edit.ablation(tiny.folder, unit(), strength=0.5)
    bake(edit, tiny.folder, tmp_path / "out")
    alone = verify(tmp_path / "out", edit, run=False)
    assert alone.edited == ()
    assert (alone.status, alone.failures) == ("unknown", ())
    assert "--base" in alone.reason
    assert all("--base" in reason for _, reason in alone.left)
    judged = verify(tmp_path / "out", edit, base=tiny.folder, run=False)
    assert len(judged.edited) == 1 + 2 * LAYERS
    half = verify(tmp_path / "out", edit * 2.0, base=tiny.folder, run=False)
    assert len(half.failures) == 1 + 2 * LAYERS
    assert "0.5 of what the edit takes" in half.left[0][1]


@pytest.mark.zoo
@pytest.mark.parametrize(
    "label", ["gemma2", "bloom", "mixtral", "gpt_oss", "gpt2", "gemma3", "qwen3_next", "nemotron_h"]
)
def test_it_follows_norms_experts_axes_and_biases(label: str, tmp_path: Path) -> None:
    zoo.zoo_folder(label, tmp_path / "base")
    edit = Edit.ablation(tmp_path / "base", orthonormal(2))
    receipt = bake(edit, tmp_path / "base", tmp_path / "out")
    for base in (None, tmp_path / "base"):
        found = verify(tmp_path / "out", edit, base=base)
        assert set(found.edited) == set(receipt.edited)
        assert found.failures == ()
        assert found.max_projection < 1e-5
    assert len(verify(tmp_path / "base", edit, run=False).failures) >= 0.9 * len(receipt.edited)


def test_projections_are_those_of_the_live_model(pair) -> None:
    tiny, edit, _ = pair
    measured, how = projections(tiny.folder, removed_directions(edit), tokens=TOKENS)
    with torch.no_grad():
        states = tiny.model(tokens(), output_hidden_states=True).hidden_states[:-1]
    for at, state in enumerate(states):
        assert measured[at] == pytest.approx(
            float(((state @ unit()).abs() / state.norm(dim=-1)).max()), rel=1e-4
        )
    assert "given prompts" in how


def test_the_wrong_model_is_refused(pair, tmp_path: Path) -> None:
    _, edit, edited = pair
    other = build(tmp_path / "other", "llama", num_hidden_layers=3)
    with pytest.raises(FingerprintError, match="3 layers"):
        verify(other.folder, edit)
    with pytest.raises(FingerprintError, match="Use the base"):
        verify(edited, edit, base=edited)
    assert json.loads((edited / "config.json").read_text())["hidden_size"] == WIDTH
