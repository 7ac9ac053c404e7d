"""`compare` finds a planted edit from two checkpoints alone, and takes nothing else for one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from quantised_folder import quantised
from safetensors.torch import load_file, save_file
from tiny import orthonormal, unit
from torch import Tensor
from typer.testing import CliRunner
from zoo import zoo_model

from vectomy import Edit, bake, compare
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.cli import app
from vectomy.comparison import Comparison
from vectomy.comparison.matrix_pairs import matrix_pairs, step
from vectomy.comparison.matrix_pairs import open_pair as pair_of
from vectomy.comparison.spectrum import spectrum_of
from vectomy.core.errors import ArchitectureError, CheckpointError
from vectomy.core.types import NormMode
from vectomy.edits.edit import BaseModelRef, Operation

TIER = "zoo"

BF16 = torch.bfloat16


@cache
def folder_of(label: str, dtype: torch.dtype = BF16) -> Path:
    path = Path(mkdtemp())
    zoo_model(label).to(dtype).save_pretrained(path)
    return path


def planted(folder: Path, rows: Tensor, norm: NormMode = "none", experts: bool = False) -> Edit:
    """Strengths of 0.3 to 1.5, different ones in each writer (and expert, if asked)."""
    opened = Checkpoint.open(folder)
    generator = torch.Generator().manual_seed(5)
    operations = []
    for writer in architecture_in(opened).writers:
        kept = "none" if norm == "row" and writer.layer is None else norm
        numbers = range(4) if experts and writer.component == "experts" else [None]
        for number in numbers:
            strengths = 0.3 + 1.2 * torch.rand(len(rows), generator=generator)
            operations.append(Operation(writer.component, writer.layer, rows, strengths, kept, expert=number))
    return Edit(BaseModelRef.of(opened), tuple(operations))


def apart(found: Edit, wanted: Edit) -> float:
    """The largest |B^T diag(a) B - B'^T diag(a') B'| over writers; all are in both."""
    places = {op.sort_key: op for op in wanted.operations}
    assert {op.sort_key for op in found.operations} == set(places)
    assert all(op.norm == places[op.sort_key].norm for op in found.operations)

    def operator(op: Operation) -> Tensor:
        return op.basis.T @ torch.diag(op.strengths) @ op.basis

    return max(float((operator(op) - operator(places[op.sort_key])).norm()) for op in found.operations)


def least_cosine(found: Comparison, rows: Tensor) -> float:
    assert found.directions.shape == rows.shape
    return float(torch.linalg.svdvals(found.directions @ rows.T).min())


# A planted edit

LABELS = (
    "llama",
    "llama:bias",
    "llama:tied",
    "gemma2",
    "gpt_oss",
    "mixtral",
    "gpt2",
    "gemma4_text:moe",
    "bloom",
)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("label", LABELS)
def test_direction_and_strengths_are_found_in_bfloat16(tmp_path: Path, label: str, k: int) -> None:
    base, rows = folder_of(label), orthonormal(k)
    edit = planted(base, rows)
    bake(edit, base, tmp_path / "b")
    found = compare(base, tmp_path / "b")
    assert found.verdict == "directional", found.summary
    assert least_cosine(found, rows) > 0.9999
    assert apart(found.edit, edit) < 0.003
    assert found.equal > 0.9
    assert found.within > 0.99
    assert all(row.rank == k and row.carried and row.along_shared > 0.99 for row in found.writers)


@pytest.mark.parametrize("norm", ["column", "row"])
@pytest.mark.parametrize("label", ["llama", "gemma2", "gpt_oss"])
def test_the_norm_mode_is_recognised(tmp_path: Path, label: str, norm: NormMode) -> None:
    base, rows = folder_of(label), orthonormal(2)
    edit = planted(base, rows, norm)
    bake(edit, base, tmp_path / "b")
    found = compare(base, tmp_path / "b")
    assert found.verdict == "directional", found.summary
    assert least_cosine(found, rows) > 0.9999
    assert apart(found.edit, edit) < 0.005


@pytest.mark.parametrize("label", ["gpt_oss", "mixtral"])
def test_experts_with_strengths_of_their_own_are_told_apart(tmp_path: Path, label: str) -> None:
    base = folder_of(label)
    edit = planted(base, orthonormal(1), experts=True)
    bake(edit, base, tmp_path / "b")
    found = compare(base, tmp_path / "b")
    assert found.verdict == "directional", found.summary
    assert apart(found.edit, edit) < 0.003


def test_the_edit_that_is_found_bakes_to_b(tmp_path: Path) -> None:
    base = folder_of("llama:tied")
    bake(planted(base, orthonormal(2)), base, tmp_path / "b")
    found = compare(base, tmp_path / "b")
    found.edit.save(tmp_path / "edit.safetensors")
    bake(Edit.load(tmp_path / "edit.safetensors"), base, tmp_path / "again")
    again = compare(tmp_path / "b", tmp_path / "again")
    # Numbers that are not the same are neighbours: less than rounding all of them would be.
    assert found.within > 0.99
    assert {row.name for row in again.differing} <= {row.name for row in found.differing}
    assert all(row.relative < row.rounding for row in again.differing)


def test_a_direction_for_each_writer_and_two_groups(tmp_path: Path) -> None:
    base = folder_of("llama")
    opened = Checkpoint.open(base)
    writers = architecture_in(opened).writers
    for name, seeds, count in (
        ("each", range(len(writers)), 0),
        ("two", [at % 2 for at in range(len(writers))], 2),
    ):
        operations = (
            Operation(writer.component, writer.layer, unit(seed)[None], torch.tensor([0.5 + 0.1 * at]))
            for at, (writer, seed) in enumerate(zip(writers, seeds, strict=True))
        )
        edit = Edit(BaseModelRef.of(opened), tuple(operations))
        bake(edit, base, tmp_path / name)
        found = compare(base, tmp_path / name)
        assert found.verdict == "directional", found.summary
        assert apart(found.edit, edit) < 0.003
        if count:
            assert len(found.directions) == count


@pytest.mark.parametrize("strength", [0.03, -1.0, 2.0])
def test_weak_negative_and_reflecting_strengths(tmp_path: Path, strength: float) -> None:
    base = folder_of("llama")
    edit = Edit.ablation(base, unit(), strength)
    bake(edit, base, tmp_path / "b")
    found = compare(base, tmp_path / "b")
    assert found.verdict == "directional", found.summary
    assert least_cosine(found, unit()[None]) > 0.999
    assert apart(found.edit, edit) < 0.003


def test_a_vector_that_was_added_is_part_of_the_edit(tmp_path: Path) -> None:
    base, vector = folder_of("llama:bias"), 3 * unit(7)
    edit = planted(base, orthonormal(1))
    operations = [
        Operation(op.component, op.layer, op.basis, op.strengths, addition=vector)
        if (op.layer, op.component) == (1, "mlp")
        else op
        for op in edit.operations
    ]
    bake(Edit(edit.base, tuple(operations)), base, tmp_path / "b")
    found = compare(base, tmp_path / "b")
    assert found.verdict == "directional", found.summary
    (added,) = [op.addition for op in found.edit.operations if op.addition is not None]
    assert float((added - vector).norm()) < 0.03 * 3


# Other precisions and formats


@pytest.mark.parametrize(
    ("one", "other"), [(torch.float32, BF16), (BF16, torch.float32), (torch.float16, BF16)]
)
def test_precisions_may_differ(tmp_path: Path, one: torch.dtype, other: torch.dtype) -> None:
    source, edit = (
        folder_of("llama", torch.float32),
        planted(folder_of("llama", torch.float32), orthonormal(1)),
    )
    bake(edit, source, tmp_path / "edited")
    for side, folder, dtype in (("a", source, one), ("b", tmp_path / "edited", other), ("c", source, other)):
        shutil.copytree(folder, tmp_path / side)
        state = load_file(tmp_path / side / "model.safetensors")
        cast = {name: value.to(dtype) for name, value in state.items()}
        save_file(cast, tmp_path / side / "model.safetensors", metadata={"format": "pt"})
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.verdict == "directional", found.summary
    assert least_cosine(found, orthonormal(1)) > 0.999
    assert apart(found.edit, edit) < 0.01
    assert compare(tmp_path / "a", tmp_path / "c").verdict == "identical"


@pytest.mark.parametrize(("label", "kind"), [("qwen3", "block"), ("mixtral", "tensor")])
def test_packed_weights_show_the_edit_above_their_rounding(tmp_path: Path, label: str, kind: str) -> None:
    base = quantised(folder_of(label, torch.float32), kind, tmp_path)
    edit = planted(base.path, orthonormal(1))
    bake(edit, base, tmp_path / "b")
    found = compare(base, tmp_path / "b")
    assert found.verdict == "directional", found.summary
    assert least_cosine(found, orthonormal(1)) > 0.999
    assert apart(found.edit, edit) < 0.02


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


def test_a_few_changed_vectors_and_a_matrix_that_was_zero_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fits are made on some of the vectors; what differs may be among the others."""
    monkeypatch.setattr("vectomy.comparison.matrix_pairs.SAMPLE", 32)
    token, zero = "model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"
    base = changed(folder_of("llama"), tmp_path / "a", lambda name, W: 0 * W if name == zero else W)

    def new(name: str, W: Tensor) -> Tensor:
        rows = torch.arange(len(W))[:, None]
        return torch.where(rows == 1, W + 1, W) if name == token else W + 1 if name == zero else W

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
    assert f"rank {rank} that are no removals" in found.summary


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


def test_a_tensor_that_one_lacks_is_named(tmp_path: Path) -> None:
    found = compare(folder_of("llama"), folder_of("llama"))
    assert (found.only_in_a, found.only_in_b) == ((), ())
    shutil.copytree(folder_of("llama:bias"), tmp_path / "b")
    state = load_file(tmp_path / "b" / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.bias"
    save_file({n: W for n, W in state.items() if n != name}, tmp_path / "b" / "model.safetensors")
    found = compare(folder_of("llama:bias"), tmp_path / "b")
    assert found.only_in_a == (name,)
    assert found.verdict == "other"


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


# The parts


def test_singular_values_are_those_of_a_whole_decomposition(tmp_path: Path) -> None:
    base = folder_of("llama")
    bake(planted(base, orthonormal(2)), base, tmp_path / "b")
    piece = next(
        p
        for p in matrix_pairs(*pair_of(Checkpoint.open(base), Checkpoint.open(tmp_path / "b")))
        if p.writer.layer == 1
    )
    with piece.held():
        a, b = (torch.cat(side) for side in zip(*piece.blocks(), strict=True))
        found = spectrum_of(piece.blocks, piece.width, piece.count)
    torch.testing.assert_close(
        found.values, torch.linalg.svdvals(b - a)[: len(found.values)], rtol=1e-3, atol=1e-4
    )


@pytest.mark.unit
def test_a_step_is_the_distance_to_the_next_number() -> None:
    values = torch.tensor([1.0, 1.5, -3.0, 0.01, 100.0]).to(BF16)
    grown = (values.view(torch.int16) + 1).view(BF16)
    assert torch.equal(step(values.float(), 7, 1e-3), (grown - values).abs().float())


# The command


def test_the_command_writes_the_edit_and_json(tmp_path: Path) -> None:
    base = folder_of("llama")
    edit = planted(base, orthonormal(1))
    bake(edit, base, tmp_path / "b")
    out = tmp_path / "edit.safetensors"
    ran = CliRunner().invoke(app, ["compare", str(base), str(tmp_path / "b"), "--out", str(out), "--json"])
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert said["verdict"] == "directional"
    assert apart(Edit.load(out), edit) < 0.003
    strengths = {op.writer_name: op.strengths.tolist() for op in edit.operations}
    assert said["edit"]["strengths"] == {
        name: pytest.approx(values, abs=0.003) for name, values in strengths.items()
    }
    shown = CliRunner().invoke(app, ["compare", str(base), str(tmp_path / "b")])
    assert "a directional edit of 1 direction in 9 writers" in shown.stdout


def test_the_command_says_when_there_is_no_edit_to_write(tmp_path: Path) -> None:
    base = str(folder_of("llama"))
    ran = CliRunner().invoke(app, ["compare", base, base, "--out", str(tmp_path / "edit.safetensors")])
    assert ran.exit_code == 1
    assert "there is no Edit to write: identical" in str(ran.exception)
    assert not list(tmp_path.iterdir())
