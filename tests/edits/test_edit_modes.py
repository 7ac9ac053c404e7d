"""Every way to edit a writer, over architectures that differ in what a writer is: hooks and baked
weights stay one function.
"""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exactness import far, stream_share
from tiny import orthonormal, unit
from torch import Tensor
from zoo import D_MODEL, zoo_load, zoo_logits

from vectomy.architecture import Architecture, TensorRef, Writer, architecture_of
from vectomy.checkpoint import Checkpoint, architecture_in, read_tensor
from vectomy.checkpoint.reader import read_stored
from vectomy.core.errors import EditError
from vectomy.core.types import NormMode
from vectomy.edits.edit import BaseModelRef, Edit, Operation
from vectomy.edits.export import bake

TIER = "zoo"

LABELS = [
    "llama",
    "llama:bias",
    "gemma2",
    "olmo2",
    "gpt2",
    "bloom",
    "mixtral",
    "qwen3_moe:mixed",
    "gpt_oss:square",
    "llama4_text",
    "dbrx",
    "jetmoe",
    "gpt_neox_japanese",
    "qwen3_next",
    "mamba2",
    "falcon_h1",
    "nemotron_h",
    "gemma4_text:moe",
    "deepseek_v3",
    "phi",
    "modernbert-decoder",
]
# (norm mode, directions, strength): each value of each with each other one.
MODES = [
    ("none", 1, 0.5),
    ("none", 2, 1.0),
    ("none", 1, 2.0),
    ("column", 2, 0.5),
    ("column", 1, 1.0),
    ("column", 2, 2.0),
    ("row", 1, 0.5),
    ("row", 2, 1.0),
    ("row", 2, 2.0),
]


def hold_together(edit: Edit, label: str, folder: Path, out: Path, effect: float = 1e-3) -> Checkpoint:
    """Hooks on the live model, its weights with the edit in them, and the baked folder loaded
    again give the same logits, which are not the base's.
    """
    bake(edit, folder, out)
    model = zoo_load(label, folder)
    base = zoo_logits(model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with edit.hooks(model):
        hooks = zoo_logits(model)
    with contextlib.suppress(InterruptedError), edit.in_weights(model):
        in_weights = zoo_logits(model)
        changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        raise InterruptedError
    assert far(zoo_logits(zoo_load(label, out)), hooks) < 1e-4
    assert far(in_weights, hooks) < 1e-4
    assert torch.equal(in_weights.argmax(-1), hooks.argmax(-1))
    edited = edit.writers(architecture_of(model))
    # An embedding may be the head too, which keeps its values.
    assert {w.weight for w, op in edited if w.layer is not None and op.strengths.any()} <= changed
    assert far(hooks, base) > effect
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters()), (
        "left as it was found"
    )
    return Checkpoint.open(out)


def stream_vectors(checkpoint: Checkpoint, writer: Writer, stored: TensorRef) -> Tensor:
    """What a weight can write, vector by vector: its columns (or an embedding's rows), of all
    experts.
    """
    return read_tensor(checkpoint, stored.name).movedim(stored.axis, -1).reshape(-1, D_MODEL).double()


# Norm modes, strengths and numbers of directions


@pytest.mark.parametrize(("norm", "k", "strength"), MODES)
@pytest.mark.parametrize("label", LABELS)
def test_hooks_and_baked_weights_are_one_function(
    zoo_of: Any, tmp_path: Path, label: str, norm: NormMode, k: int, strength: float
) -> None:
    folder = zoo_of(label)
    edit = Edit.ablation(folder, orthonormal(k), strength, norm)
    if label == "dbrx" and norm == "row":
        with pytest.raises(
            EditError, match=r"rows of 'transformer\.blocks\.0\.ffn\.experts\.mlp\.w2' run through all"
        ):
            bake(edit, folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    hold_together(edit, label, folder, tmp_path / "out")


@pytest.mark.parametrize("label", LABELS)
def test_column_mode_keeps_lengths_and_leaves_nothing_of_the_direction(
    zoo_of: Any, tmp_path: Path, label: str
) -> None:
    folder, rows = zoo_of(label), orthonormal(2)
    bake(Edit.ablation(folder, rows, norm="column"), folder, tmp_path / "out")
    old, new = Checkpoint.open(folder), Checkpoint.open(tmp_path / "out")
    for writer in architecture_in(old).writers:
        for stored in writer.weights:
            before, after = (stream_vectors(side, writer, stored) for side in (old, new))
            torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1), rtol=1e-5, atol=1e-7)
            if not writer.norms:
                assert (before @ rows.T.double()).abs().max() > 0.1
                assert (after @ rows.T.double()).abs().max() < 1e-5 * before.norm(dim=-1).max()
    loaded = zoo_load(label, tmp_path / "out")
    assert stream_share(loaded, architecture_of(loaded), rows)[0] < 1e-5


@pytest.mark.parametrize("label", ["gemma2", "olmo2", "gemma4_text:moe", "bloom", "modernbert-decoder"])
def test_unequal_strengths_pass_a_norm(zoo_of: Any, tmp_path: Path, label: str) -> None:
    folder, rows = zoo_of(label), orthonormal(3)
    edit = Edit.ablation(folder, rows)
    strengths = torch.tensor([1.0, 0.4, -0.5])
    edit = replace(edit, operations=tuple(replace(op, strengths=strengths) for op in edit.operations))
    hold_together(edit, label, folder, tmp_path / "out")
    # What is removed wholly is gone, whatever the others are.
    loaded = zoo_load(label, tmp_path / "out")
    assert stream_share(loaded, architecture_of(loaded), rows[:1])[0] < 1e-5
    assert stream_share(loaded, architecture_of(loaded), rows[1:2])[0] > 1e-2


# Parts of a model


@pytest.mark.parametrize("label", LABELS)
def test_strengths_of_their_own_for_each_writer(zoo_of: Any, tmp_path: Path, label: str) -> None:
    """As a search gives them: by layer and component, some writers left alone."""
    folder = zoo_of(label)
    whole = Edit.ablation(folder, orthonormal(2))
    components = list(dict.fromkeys(op.component for op in whole.operations))
    parts = [whole.only(components=[name]) * (0.3 + 0.3 * n) for n, name in enumerate(components)]
    edit = sum(parts[1:], parts[0]).only(layers=[0, 2, 3]) + whole.only(components=["embedding"]) * 0.5
    out = hold_together(edit, label, folder, tmp_path / "out")
    old = Checkpoint.open(folder)
    for writer in architecture_in(old).writers:
        named = writer.layer not in (1, 4) and writer.component != "position"
        for stored in writer.weights:
            assert torch.equal(read_tensor(old, stored.name), read_tensor(out, stored.name)) is not named, (
                stored
            )


SINGLE = [
    label
    for label in LABELS
    if label
    in (
        "mixtral",
        "qwen3_moe:mixed",
        "gpt_oss:square",
        "llama4_text",
        "jetmoe",
        "nemotron_h",
        "gemma4_text:moe",
        "deepseek_v3",
        "qwen3_next",
    )
]


def experts_at(arch: Architecture) -> Writer:
    return next(writer for writer in arch.writers if writer.component == "experts")


def slices(checkpoint: Checkpoint, tensors: tuple[TensorRef, ...]) -> dict[int, Tensor]:
    """By expert, whether they are stored fused or one by one."""
    if tensors and tensors[0].expert is not None:
        return {
            stored.expert: read_tensor(checkpoint, stored.name)
            for stored in tensors
            if stored.expert is not None
        }
    return dict(enumerate(read_tensor(checkpoint, tensors[0].name))) if tensors else {}


@pytest.mark.parametrize("norm", ["none", "column", "row"])
@pytest.mark.parametrize("label", SINGLE)
def test_one_expert_is_edited_alone(zoo_of: Any, tmp_path: Path, label: str, norm: NormMode) -> None:
    folder, old = zoo_of(label), Checkpoint.open(zoo_of(label))
    writer = experts_at(architecture_in(old))
    rows = orthonormal(2)
    ops = (
        Operation("experts", writer.layer, rows, torch.ones(2), norm, expert=3),
        Operation("experts", writer.layer, rows[:1], torch.tensor([0.5]), norm, expert=1),
    )
    new = hold_together(Edit(BaseModelRef.of(old), ops), label, folder, tmp_path / "out", effect=1e-6)
    for kind in (writer.weights, writer.biases):
        if not kind or (kind is writer.biases and len(old.tensors[kind[0].name].shape) == 1):
            continue  # A bias that all experts share is no expert's own.
        before, after = slices(old, kind), slices(new, kind)
        assert [n for n in before if not torch.equal(before[n], after[n])] == [1, 3]
    changed = {
        name for name in old.tensors if not torch.equal(read_stored(old, name), read_stored(new, name))
    }
    assert changed <= {stored.name for stored in (*writer.weights, *writer.biases)}


@pytest.mark.parametrize("label", SINGLE)
def test_an_expert_that_is_not_there_is_refused(zoo_of: Any, tmp_path: Path, label: str) -> None:
    folder, old = zoo_of(label), Checkpoint.open(zoo_of(label))
    writer = experts_at(architecture_in(old))
    op = Operation("experts", writer.layer, orthonormal(1), torch.ones(1), expert=4)
    edit = Edit(BaseModelRef.of(old), (op,))
    with pytest.raises(EditError, match="has experts 0 to 3"):
        bake(edit, folder, tmp_path / "out")
    with pytest.raises(EditError, match="has experts 0 to 3"):
        edit.hooks(zoo_load(label, folder))
    with pytest.raises(EditError, match="name each once"):
        Edit(BaseModelRef.of(old), (replace(op, expert=2), replace(op, expert=None)))


def test_experts_that_stand_in_one_matrix_are_edited_together(zoo_of: Any, tmp_path: Path) -> None:
    old = Checkpoint.open(zoo_of("dbrx"))
    op = Operation("experts", 1, orthonormal(1), torch.ones(1), expert=1)
    with pytest.raises(EditError, match="edit all of them"):
        bake(Edit(BaseModelRef.of(old), (op,)), old, tmp_path / "out")


# Additions


@pytest.mark.parametrize("label", LABELS)
def test_a_vector_is_added_where_a_bias_holds_it_and_refused_elsewhere(
    zoo_of: Any, tmp_path: Path, label: str
) -> None:
    folder, old = zoo_of(label), Checkpoint.open(zoo_of(label))
    arch = architecture_in(old)
    for number, writer in enumerate(arch.at(1)):
        for strength in (0.0, 1.0):
            op = Operation(
                writer.component, 1, orthonormal(1), torch.tensor([strength]), addition=3 * unit(7)
            )
            edit, out = Edit(BaseModelRef.of(old), (op,)), tmp_path / f"{number}-{strength}"
            if writer.norms:
                with pytest.raises(EditError, match="stands between it and the stream"):
                    bake(edit, folder, out)
                with pytest.raises(EditError, match="stands between it and the stream"):
                    edit.hooks(zoo_load(label, folder))
            elif writer.component == "experts" or not (
                writer.biases or writer.component in arch.family.bias_flags
            ):
                with pytest.raises(EditError, match="use it as hooks"):
                    bake(edit, folder, out)
                model = zoo_load(label, folder)
                before = zoo_logits(model)
                with edit.hooks(model):
                    assert far(zoo_logits(model), before) > 1e-3
            else:
                hold_together(edit, label, folder, out)
                continue
            assert not out.exists()
