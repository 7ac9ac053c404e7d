"""`compare` finds a planted edit from two checkpoints alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from planted_edit import BF16, folder_of
from quantised_folder import quantised
from safetensors.torch import load_file, save_file
from tiny import orthonormal, unit
from torch import Tensor
from typer.testing import CliRunner

from vectomy import Edit, bake, compare
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.cli import app
from vectomy.comparison import Comparison
from vectomy.comparison.matrix_pairs import matrix_pairs, step
from vectomy.comparison.matrix_pairs import open_pair as pair_of
from vectomy.comparison.spectrum import spectrum_of
from vectomy.core.types import NormMode
from vectomy.edits.edit import BaseModelRef, Operation

TIER = "zoo"


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
