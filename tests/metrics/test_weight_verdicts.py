"""Whatever the edit, its base never passes for edited, and what was baked of it always does."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file
from tiny import LAYERS, Tiny, build, load, orthonormal, unit

from vectomy import Edit, bake, verify
from vectomy.checkpoint import Checkpoint
from vectomy.edits.edit import BaseModelRef, Operation
from vectomy.metrics.weight_verdicts import changes_samples

TIER = "tiny"

SHARD = "model.safetensors"
BIASED = {"attention_bias": True, "mlp_bias": True}


def ablation(strength: float, norm: str) -> Callable[[Tiny], Edit]:
    return lambda tiny: Edit.ablation(tiny.folder, orthonormal(2), strength, norm)


def by_component(tiny: Tiny) -> Edit:
    """What the gradient recipe leaves: another strength for every writer."""
    edit = Edit.ablation(tiny.folder, unit())
    strengths = torch.linspace(0.25, 1.75, len(edit.operations))
    operations = [
        dataclasses.replace(op, strengths=strength[None])
        for op, strength in zip(edit.operations, strengths, strict=True)
    ]
    return dataclasses.replace(edit, operations=tuple(operations))


def by_direction(tiny: Tiny) -> Edit:
    """What tpe and joint removals leave: several directions, each with a strength, some whole."""
    edit = Edit.ablation(tiny.folder, orthonormal(3), embeddings=False)
    strengths = torch.tensor([1.0, 0.5, -0.3])
    operations = [dataclasses.replace(op, strengths=strengths) for op in edit.operations]
    return dataclasses.replace(edit, operations=tuple(operations))


def of_one_writer(tiny: Tiny) -> Edit:
    return Edit.ablation(tiny.folder, unit(), 0.25).only(layers=[2], components=["mlp"])


def of_one_axis(tiny: Tiny) -> Edit:
    """Changes one row of each matrix: the fingerprint need not see it."""
    return Edit.ablation(tiny.folder, torch.eye(32)[17], 0.5, embeddings=False)


def addition(strength: float) -> Callable[[Tiny], Edit]:
    """What traits and affine steering leave: a vector added, alone or beside a removal."""

    def make(tiny: Tiny) -> Edit:
        base = BaseModelRef.of(Checkpoint.open(tiny.folder))
        rows, strengths = unit()[None], torch.full((1,), strength)
        return Edit(
            base, tuple(Operation("attention", layer, rows, strengths, addition=unit(3)) for layer in (0, 2))
        )

    return make


EDITS: dict[str, Callable[[Tiny], Edit]] = {
    **{
        f"{norm} {strength:g}": ablation(strength, norm)
        for norm in ("none", "column", "row")
        for strength in (0.25, 0.5, 1.0, 1.5, 2.0, -1.0)
    },
    "by component": by_component,
    "by direction": by_direction,
    "one writer": of_one_writer,
    "one axis": of_one_axis,
    "addition": addition(0.0),
    "addition and removal": addition(1.0),
    "addition and part": addition(0.5),
}


def rounded(folder: Path, out: Path, dtype: torch.dtype) -> Path:
    """The same weights in another dtype: no byte of them is the same."""
    shutil.copytree(folder, out)
    weights = {name: value.to(dtype) for name, value in load_file(out / SHARD).items()}
    save_file(weights, out / SHARD, metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])
@pytest.mark.parametrize("kind", EDITS)
def test_the_base_never_passes_and_the_edited_model_always_does(
    kind: str, biases: bool, tiny_of, tmp_path: Path
) -> None:
    tiny = tiny_of("llama", **(BIASED if biases else {}))
    edit = EDITS[kind](tiny)
    receipt = bake(edit, tiny.folder, tmp_path / "edited")
    other = rounded(tiny.folder, tmp_path / "rounded", torch.bfloat16)

    exact = verify(tmp_path / "edited", edit, base=tiny.folder, run=False)
    assert (exact.status, exact.failures) == ("carried", ()), exact.reason
    assert set(exact.edited) >= set(receipt.edited)
    for unedited in (tiny.folder, other):
        told = verify(unedited, edit, base=tiny.folder, run=False)
        assert told.status == "not_carried", told.reason
        assert verify(unedited, edit, run=False).status != "carried"

    alone = verify(tmp_path / "edited", edit, run=False)
    assert alone.status in ("carried", "unknown"), alone.reason
    assert alone.failures == ()
    assert alone.status == "carried" or "--base" in alone.reason
    # Half of what the edit does is not the edit.
    half = verify(tmp_path / "edited", edit * 0.5, base=tiny.folder, run=False)
    assert half.status == "not_carried"


@pytest.mark.zoo
@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("norm", ["none", "column"])
@pytest.mark.parametrize("label", ["gemma2", "bloom", "mixtral", "gpt_oss", "gpt2"])
def test_so_it_is_with_norms_experts_and_either_axis(
    label: str, norm: str, strength: float, tmp_path: Path
) -> None:
    zoo.zoo_folder(label, tmp_path / "base")
    edit = Edit.ablation(tmp_path / "base", orthonormal(2), strength, norm)
    bake(edit, tmp_path / "base", tmp_path / "edited")
    exact = verify(tmp_path / "edited", edit, base=tmp_path / "base", run=False)
    assert (exact.status, exact.failures) == ("carried", ()), exact.reason
    for base in (None, tmp_path / "base"):
        assert verify(tmp_path / "base", edit, base=base, run=False).status == "not_carried"


@pytest.mark.zoo
@pytest.mark.parametrize("label", ["mixtral", "gpt_oss"])
def test_experts_edited_one_by_one_are_judged_together(label: str, tmp_path: Path) -> None:
    zoo.zoo_folder(label, tmp_path / "base")
    base = BaseModelRef.of(Checkpoint.open(tmp_path / "base"))
    strengths = {0: 0.5, 1: 1.0}
    edit = Edit(
        base,
        tuple(
            Operation("experts", 0, unit(expert)[None], torch.full((1,), strength), expert=expert)
            for expert, strength in strengths.items()
        ),
    )
    bake(edit, tmp_path / "base", tmp_path / "edited")
    exact = verify(tmp_path / "edited", edit, base=tmp_path / "base", run=False)
    assert (exact.status, exact.failures) == ("carried", ()), exact.reason
    twice = edit * 2.0
    assert verify(tmp_path / "edited", twice, base=tmp_path / "base", run=False).status == "not_carried"
    assert verify(tmp_path / "base", edit, base=tmp_path / "base", run=False).status == "not_carried"


def test_an_edit_that_changes_nothing_cannot_be_told(tiny_of) -> None:
    tiny = tiny_of("llama")
    for edit in (Edit.ablation(tiny.folder, unit()) * 0.0, Edit.ablation(tiny.folder, unit(), 1e-30)):
        for base in (None, tiny.folder):
            assert verify(tiny.folder, edit, base=base, run=False).status != "carried"


def test_the_fingerprint_shows_the_unedited_base_where_the_edit_would_change_it(
    tmp_path: Path, tiny_of
) -> None:
    tiny = tiny_of("llama")
    edit = Edit.ablation(tiny.folder, unit(), 0.5)
    told = verify(tiny.folder, edit, run=False)
    assert told.status == "not_carried"
    assert "fingerprint of the unedited base" in told.reason
    # One row in the middle of a matrix is in no sample: nothing shows whether it is the base.
    large = build(tmp_path / "large", "llama", intermediate_size=4096)
    one_row = Edit.ablation(large.folder, torch.eye(32)[9], 0.5).only(layers=[1], components=["mlp"])
    bake(one_row, large.folder, tmp_path / "edited")
    assert not changes_samples(Checkpoint.open(large.folder), one_row)
    for folder in (large.folder, tmp_path / "edited"):
        assert verify(folder, one_row, run=False).status == "unknown"
    assert verify(tmp_path / "edited", one_row, base=large.folder, run=False).status == "carried"


# The base at hand


def test_the_base_that_the_edit_names_is_used_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = build(tmp_path / "models" / "owl", "llama")
    edit = Edit.ablation(tiny.folder, unit(), 0.5, name="owl")
    edited = tmp_path / "elsewhere" / "edited"
    bake(edit, tiny.folder, edited)
    assert verify(edited, edit, run=False).status == "unknown"

    monkeypatch.chdir(tmp_path / "models")
    told = verify(edited, edit, run=False)
    assert (told.status, len(told.edited)) == ("carried", 1 + 2 * LAYERS)
    assert "as baked from owl" in told.reason
    assert verify(edited, edit * 2.0, run=False).status == "not_carried"
    # Another model of that name is not taken for the base.
    shutil.rmtree(tiny.folder)
    build(tiny.folder, "llama", tied=True)
    assert verify(edited, edit, run=False).status == "unknown"


def test_the_base_is_taken_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "cache" / "models--night--owl" / "snapshots" / "0123"
    tiny = build(snapshot, "llama")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("night/owl", "owl"):
        edit = Edit.ablation(tiny.folder, unit(), 0.5, name=name)
        bake(edit, tiny.folder, tmp_path / name.replace("/", "-"))
        assert verify(tmp_path / name.replace("/", "-"), edit, run=False).status == "carried"
    stranger = Edit.ablation(tiny.folder, unit(), 0.5, name="day/owl")
    assert verify(tmp_path / "owl", stranger, run=False).status == "unknown"


# NaN and infinite values


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name",
    ["model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.q_proj.weight", "lm_head.weight"],
)
def test_a_weight_that_is_no_number_fails_the_receipt(
    name: str, value: float, tiny_of, tmp_path: Path
) -> None:
    tiny = tiny_of("llama")
    edit = Edit.ablation(tiny.folder, unit())
    bake(edit, tiny.folder, tmp_path / "edited")
    weights = load_file(tmp_path / "edited" / SHARD)
    weights[name][3, 5] = value
    save_file(weights, tmp_path / "edited" / SHARD, metadata={"format": "pt"})
    for base in (None, tiny.folder):
        receipt = verify(tmp_path / "edited", edit, base=base, run=False)
        assert receipt.status == "not_carried"
        assert name in receipt.reason
        assert "NaN or infinite" in receipt.reason


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_stream_that_is_no_number_fails_the_receipt(name: str, tmp_path: Path) -> None:
    tiny = build(tmp_path / "base", "llama")
    weights = load_file(tiny.folder / SHARD)
    weights[name][3] = float("nan")
    save_file(weights, tiny.folder / SHARD, metadata={"format": "pt"})
    from vectomy.metrics.verify import with_measurement

    edit = Edit.ablation(tiny.folder, unit())
    receipt = bake(edit, tiny.folder, tmp_path / "out")
    assert (receipt.status == "not_carried") == (name in receipt.edited)
    measured = with_measurement(receipt, tmp_path / "out", edit)
    assert (measured.status, measured.projection) == ("not_carried", None)
    assert "NaN or infinite values, leaving layer 1" in measured.reason
    json.dumps(measured.to_json(), allow_nan=False)


def test_values_too_large_for_their_format_fail_a_bake(tmp_path: Path) -> None:
    tiny = build(tmp_path / "base", "llama")
    weights = {name: value.to(torch.float16) for name, value in load_file(tiny.folder / SHARD).items()}
    name = "model.layers.2.mlp.down_proj.weight"
    weights[name][:] = unit()[:, None].half() * 60_000
    save_file(weights, tiny.folder / SHARD, metadata={"format": "pt"})
    receipt = bake(Edit.ablation(tiny.folder, unit(), -4.0), tiny.folder, tmp_path / "out")
    assert receipt.status == "not_carried"
    assert name in receipt.reason


def test_an_error_while_measuring_is_a_note_of_a_finished_bake(
    tiny_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vectomy.metrics.verify import with_measurement

    tiny = tiny_of("llama")
    edit = Edit.ablation(tiny.folder, unit())
    receipt = bake(edit, tiny.folder, tmp_path / "out")
    for error in (RuntimeError("CUDA error: no kernel image"), MemoryError(), KeyError("rope")):

        def fail(*_given: object, error: Exception = error, **_more: object) -> None:
            raise error

        monkeypatch.setattr("vectomy.metrics.direction_share._open_chat", fail)
        measured = with_measurement(receipt, tmp_path / "out", edit)
        assert measured.projection is None
        assert any("was not measured" in note and type(error).__name__ in note for note in measured.notes)
        assert verify(tmp_path / "out", edit).status == "carried"
    assert load(tmp_path / "out") is not None
