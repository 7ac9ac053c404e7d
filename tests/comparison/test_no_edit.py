"""What `compare` takes for no edit: fine-tunes, adapters, rounding; and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from planted_edit import folder_of
from safetensors.torch import load_file, save_file
from tiny import unit
from torch import Tensor

from vectomy import Edit, bake, compare
from vectomy.comparison.matrix_pairs import SAMPLE, SPREAD
from vectomy.core.errors import ArchitectureError, CheckpointError

TIER = "zoo"


# What is no edit


def changed(folder: Path, out: Path, change: Callable[[str, Tensor], Tensor]) -> Path:
    shutil.copytree(folder, out)
    state = load_file(out / "model.safetensors")
    new = {
        name: (change(name, W.float()) if W.ndim > 1 else W).to(W.dtype).contiguous()
        for name, W in state.items()
    }
    save_file(new, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_the_same_checkpoint_is_identical_however_it_is_cut(tiny_of) -> None:
    assert compare(folder_of("llama"), folder_of("llama")).verdict == "identical"
    whole, cut = tiny_of("llama"), tiny_of("llama", sharded=True)
    found = compare(whole.folder, cut.folder)
    assert (found.verdict, found.differing, found.edit) == ("identical", (), None)


@pytest.mark.parametrize("size", [0.1, 0.01, 0.001])
def test_a_fine_tune_is_none(tmp_path: Path, size: float) -> None:
    generator = torch.Generator().manual_seed(3)
    tuned = changed(
        folder_of("llama"),
        tmp_path / "b",
        lambda _, W: W + size * W.std() * torch.randn(W.shape, generator=generator),
    )
    found = compare(folder_of("llama"), tuned)
    assert (found.verdict, found.edit) == ("other", None)
    assert "full rank" in found.summary
    assert found.explained[0] < 0.2


def test_a_few_changed_vectors_and_a_matrix_that_was_zero_are_none(tiny_of, tmp_path: Path) -> None:
    """Fits are made on some of the vectors; what differs may be among the others."""
    token, zero = "model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"
    large = tiny_of("llama", vocab_size=2 * SAMPLE).folder
    base = changed(large, tmp_path / "a", lambda name, W: 0 * W if name == zero else W)
    # Behind the first piece of the sample.
    behind = SAMPLE // SPREAD + 1

    def new(name: str, W: Tensor) -> Tensor:
        rows = torch.arange(len(W))[:, None]
        return torch.where(rows == behind, W + 1, W) if name == token else W + 1 if name == zero else W

    found = compare(base, changed(base, tmp_path / "b", new))
    assert (found.verdict, found.edit) == ("other", None)
    assert {row.name: row.rank for row in found.writers} == {token: None, zero: 1}
    assert {row.name: row.relative for row in found.writers}[zero] == 1


@pytest.mark.parametrize("rank", [1, 4])
def test_a_lora_is_none_and_has_its_rank(tmp_path: Path, rank: int) -> None:
    generator = torch.Generator().manual_seed(4)

    def merged(_: str, W: Tensor) -> Tensor:
        left, right = (
            torch.randn(*shape, generator=generator) for shape in ((len(W), rank), (rank, W.shape[1]))
        )
        return W + 0.1 * W.std() * left @ right

    found = compare(folder_of("llama"), changed(folder_of("llama"), tmp_path / "b", merged))
    assert (found.verdict, found.edit) == ("other", None)
    assert {row.rank for row in found.writers} == {rank}
    assert f"rank {rank} that remove no directions" in found.summary


def test_one_direction_that_all_write_more_of_is_no_removal(tmp_path: Path) -> None:
    """Rank one and shared: only that it does not read what it removes tells it."""
    generator = torch.Generator().manual_seed(4)

    def more(name: str, W: Tensor) -> Tensor:
        writes = name.endswith(("o_proj.weight", "down_proj.weight"))
        return W + writes * 0.2 * torch.outer(
            torch.ones(len(W)), torch.randn(W.shape[1], generator=generator)
        )

    found = compare(folder_of("llama"), changed(folder_of("llama"), tmp_path / "b", more))
    assert (found.verdict, found.edit) == ("other", None)
    assert found.explained[0] > 0.99


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_a_quantised_and_dequantised_copy_is_none_and_named(tmp_path: Path, kind: str) -> None:
    def there_and_back(_: str, W: Tensor) -> Tensor:
        if kind == "fp8":
            scale = W.abs().max() / 448
            return (W / scale).to(torch.float8_e4m3fn).float() * scale
        scale = W.abs().amax(1, keepdim=True) / (127 if kind == "int8" else 7)
        return (W / scale).round() * scale

    found = compare(folder_of("llama"), changed(folder_of("llama"), tmp_path / "b", there_and_back))
    assert (found.verdict, found.edit) == ("other", None)
    assert "coarser grid" in found.summary


def test_an_edit_with_more_on_top_is_one_in_part(tmp_path: Path) -> None:
    base = folder_of("llama")
    bake(Edit.ablation(base, unit()), base, tmp_path / "edited")
    noise = torch.Generator().manual_seed(1)
    mixed = changed(
        tmp_path / "edited",
        tmp_path / "b",
        lambda name, W: W + 0.02 * torch.randn(W.shape, generator=noise) if ".1." in name else W,
    )
    found = compare(base, mixed)
    assert found.verdict == "partly_directional"
    assert {op.layer for op in found.edit.operations} == {None, 0, 2, 3}
    assert not [row for row in found.writers if row.carried and row.layer == 1]


def test_a_tied_head_that_was_edited_along_is_said(tmp_path: Path) -> None:
    """Tools that edit the embedding of a tied model change what the head reads too."""
    r = unit()
    base = folder_of("llama:tied")

    def naive(name: str, W: Tensor) -> Tensor:
        if "embed" in name:
            return W - torch.outer(W @ r, r)
        return W - torch.outer(r, r @ W) if name.endswith(("o_proj.weight", "down_proj.weight")) else W

    found = compare(base, changed(base, tmp_path / "b", naive))
    assert found.verdict == "partly_directional"
    assert len(found.edit.operations) == 9
    assert any("head is tied" in note for note in found.notes)


@pytest.mark.parametrize("label", ["llama:bias", "gpt_oss"])
def test_biases_that_a_tool_left_alone_are_not_taken_for_edited(tmp_path: Path, label: str) -> None:
    """Baking the Edit would change them: where it can it adds back what it takes, and where not the
    verdict says so.
    """
    base, r = folder_of(label), unit()

    def weights(name: str, W: Tensor) -> Tensor:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            return W - torch.outer(r, r @ W)
        return W - (W @ r)[..., None] * r if name.endswith("experts.down_proj") else W

    edited = changed(base, tmp_path / "b", weights)
    found = compare(base, edited)
    if label == "gpt_oss":
        assert found.verdict == "partly_directional"
        assert any("biases alone" in note and "down_proj_bias" in note for note in found.notes)
        return
    assert found.verdict == "directional", found.summary
    bake(found.edit, base, tmp_path / "again")
    before, after = (load_file(path / "model.safetensors") for path in (base, tmp_path / "again"))
    for name in (name for name in before if name.endswith("_proj.bias")):
        torch.testing.assert_close(after[name].float(), before[name].float(), rtol=0.01, atol=0.01)


def test_tensors_that_one_lacks_are_named(tmp_path: Path) -> None:
    """A folder whose layers differ in their tensors is refused, so B lacks the biases of all."""
    result = compare(folder_of("llama"), folder_of("llama"))
    assert (result.only_in_a, result.only_in_b) == ((), ())
    shutil.copytree(folder_of("llama:bias"), tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps(config | {"attention_bias": False}))
    state = load_file(tmp_path / "b" / "model.safetensors")
    biases = {name for name in state if "self_attn" in name and name.endswith(".bias")}
    assert biases
    rest = {name: value for name, value in state.items() if name not in biases}
    save_file(rest, tmp_path / "b" / "model.safetensors")
    result = compare(folder_of("llama:bias"), tmp_path / "b")
    assert set(result.only_in_a) == biases
    assert result.verdict == "other"


# Bad input


def test_two_models_that_are_no_versions_of_one_are_refused(tiny_of, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="model type is llama and gemma2"):
        compare(folder_of("llama"), folder_of("gemma2"))
    with pytest.raises(ArchitectureError, match="number of layers is 4 and 2"):
        compare(tiny_of("llama").folder, tiny_of("llama", num_hidden_layers=2).folder)
    with pytest.raises(ArchitectureError, match=r"down_proj.*has shape \[32, 48\].*and \[32, 40\]"):
        compare(tiny_of("llama").folder, tiny_of("llama", intermediate_size=40).folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        compare(folder_of("llama"), tmp_path / "none")


@pytest.mark.parametrize("name", ["model.layers.2.mlp.down_proj.weight", "model.layers.1.mlp.up_proj.weight"])
def test_nan_is_named(tmp_path: Path, name: str) -> None:
    def broken(own: str, W: Tensor) -> Tensor:
        return torch.where(torch.arange(W.shape[1]) == 3, torch.nan, W) if own == name else W

    with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + ".*NaN"):
        compare(folder_of("llama"), changed(folder_of("llama"), tmp_path / "b", broken))
