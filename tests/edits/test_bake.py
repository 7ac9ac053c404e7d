"""Baked weights and hooks are one function, the stream loses the direction at every point, and
nothing else changes.

The oracle of an edit is a float64 copy of the model whose weights the formulas of methods.md change
directly; the oracle of a full ablation is `ablate` at every point of the stream.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import (
    LAYERS,
    MODEL_TYPES,
    ROUNDING,
    WIDTH,
    Tiny,
    build,
    file_hashes,
    hooked,
    load,
    logits,
    orthonormal,
    tokens,
    unit,
)

from vectomy.checkpoint import Checkpoint, read_tensor
from vectomy.core.errors import EditError
from vectomy.core.types import SITES
from vectomy.edits.edit import BaseModelRef, Edit, Operation
from vectomy.edits.export import bake
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import ablate, add, intervene

TIER = "tiny"

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
BIASED = {"attention_bias": True, "mlp_bias": True}


def baked(edit: Edit, tiny: Tiny, out: Path) -> torch.nn.Module:
    bake(edit, tiny.folder, out)
    return load(out)


def under(edit: Edit, model: torch.nn.Module) -> torch.Tensor:
    with edit.hooks(model):
        return logits(model)


def tensors(folder: Path) -> dict[str, bytes]:
    opened = Checkpoint.open(folder)
    return {
        name: (folder / entry.shard).read_bytes()[entry.start : entry.end]
        for name, entry in opened.tensors.items()
    }


def hold_together(edit: Edit, tiny: Tiny, out: Path) -> None:
    """Hooks and baked weights agree, and both differ from the base (the property could fail)."""
    run, weights = under(edit, tiny.model), logits(baked(edit, tiny, out))
    torch.testing.assert_close(run, weights, **ROUNDING)
    assert (run - logits(tiny.model)).abs().max() > 0.05
    assert not hooked(tiny.model)


# One function


@pytest.mark.parametrize("norm", ["none", "column", "row"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_hooks_and_baked_weights_give_the_same_logits(
    tiny_of, tmp_path: Path, model_type: str, tied: bool, norm: str
) -> None:
    tiny = tiny_of(model_type, tied=tied, sharded=norm == "column")
    hold_together(Edit.ablation(tiny.folder, orthonormal(3), norm=norm), tiny, tmp_path / "out")


@pytest.mark.parametrize("strength", [0.5, -1.0, 2.0])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("norm", ["none", "column", "row"])
def test_strengths_and_several_directions_agree(
    tiny_of, tmp_path: Path, norm: str, k: int, strength: float
) -> None:
    tiny = tiny_of("qwen3", tied=True)
    hold_together(Edit.ablation(tiny.folder, orthonormal(k), strength, norm), tiny, tmp_path / "out")


PARTS = {
    "no-embedding": {"components": ["attention", "mlp"]},
    "embedding": {"components": ["embedding"]},
    "attention": {"components": ["attention"]},
    "two-layers": {"layers": [1, 3]},
    "one-writer": {"layers": [2], "components": ["mlp"]},
}


@pytest.mark.parametrize("norm", ["none", "column", "row"])
@pytest.mark.parametrize("part", PARTS)
def test_partial_edits_agree(tiny_of, tmp_path: Path, part: str, norm: str) -> None:
    tiny = tiny_of("smollm3", tied=True, sharded=True)
    hold_together(
        Edit.ablation(tiny.folder, orthonormal(2), norm=norm).only(**PARTS[part]), tiny, tmp_path / "out"
    )


@pytest.mark.parametrize("norm", ["none", "column", "row"])
def test_writers_with_biases_agree(tiny_of, tmp_path: Path, norm: str) -> None:
    tiny = tiny_of("llama", **BIASED)
    hold_together(Edit.ablation(tiny.folder, orthonormal(3), 0.8, norm), tiny, tmp_path / "out")


def test_mixed_strengths_agree_after_saving(tiny_of, tmp_path: Path) -> None:
    tiny = tiny_of()
    base = BaseModelRef.of(Checkpoint.open(tiny.folder))
    rows = orthonormal(3)
    edit = Edit(
        base,
        (
            Operation("attention", 1, rows, torch.tensor([1.0, -0.5, 0.2]), "column"),
            Operation("mlp", 3, rows[:2], torch.tensor([2.0, 0.3]), "row"),
        ),
    )
    edit.save(tmp_path / "edit.safetensors")
    hold_together(Edit.load(tmp_path / "edit.safetensors"), tiny, tmp_path / "out")


@pytest.mark.parametrize("norm", ["none", "column", "row"])
def test_an_addition_goes_into_a_bias_and_equals_steering(tiny_of, tmp_path: Path, norm: str) -> None:
    tiny, vector = tiny_of("llama", **BIASED), 3 * unit(5)
    steer = Operation("mlp", 1, unit()[None], torch.zeros(1), norm, addition=vector)
    edit = Edit(BaseModelRef.of(Checkpoint.open(tiny.folder)), (steer,))
    hold_together(edit, tiny, tmp_path / "out")
    with intervene(tiny.model, {("resid_post", 1): add(vector)}):
        steered = logits(tiny.model)
    torch.testing.assert_close(under(edit, tiny.model), steered, **ROUNDING)
    both = dataclasses.replace(edit, operations=(dataclasses.replace(steer, strengths=torch.ones(1)),))
    hold_together(both, tiny, tmp_path / "both")


@pytest.mark.parametrize(
    ("model_type", "components"), [("llama", ("attention", "mlp")), ("qwen3", ("attention",))]
)
def test_a_writer_without_a_bias_is_given_one_where_the_configuration_can(
    tiny_of, tmp_path: Path, model_type: str, components: tuple[str, ...]
) -> None:
    tiny = tiny_of(model_type, sharded=True)
    removal = Edit.ablation(tiny.folder, unit(), 0.5, embeddings=False)
    added = {(layer, component) for layer in (1, 3) for component in components}
    edit = dataclasses.replace(
        removal,
        operations=tuple(
            dataclasses.replace(op, addition=unit(op.layer)) if (op.layer, op.component) in added else op
            for op in removal.operations
        ),
    )
    receipt = bake(edit, tiny.folder, tmp_path / "out")
    assert any("attention_bias" in note for note in receipt.notes)
    assert set(receipt.added) == {
        f"model.layers.{layer}.{'self_attn.o_proj' if part == 'attention' else 'mlp.down_proj'}.bias"
        for layer, part in added
    }
    torch.testing.assert_close(logits(load(tmp_path / "out")), under(edit, tiny.model), **ROUNDING)


def test_the_receipt_of_vectors_alone_names_the_biases_that_hold_them(tiny_of, tmp_path: Path) -> None:
    """No weight is edited; that of a writer with a vector is left for this reason."""
    tiny = tiny_of("llama")
    plain = Edit.ablation(tiny.folder, unit(), 0.0, embeddings=False)
    edit = dataclasses.replace(
        plain,
        operations=tuple(
            dataclasses.replace(op, addition=unit(1))
            for op in plain.operations
            if (op.layer, op.component) == (1, "mlp")
        ),
    )
    receipt = bake(edit, tiny.folder, tmp_path / "out")
    bias = "model.layers.1.mlp.down_proj.bias"
    assert (receipt.edited, receipt.added) == ((), (bias,))
    reasons = dict(receipt.left)
    assert reasons["model.layers.1.mlp.down_proj.weight"] == f"the edit's vector is in '{bias}'"
    assert reasons["model.layers.2.mlp.down_proj.weight"] == "no operation of the edit names it"
    assert receipt.to_json()["added"] == (bias,)


def test_an_addition_without_a_bias_is_refused_by_name_and_writes_nothing(tiny_of, tmp_path: Path) -> None:
    tiny = tiny_of("qwen2")
    steer = Operation("mlp", 1, unit()[None], torch.zeros(1), addition=unit())
    edit = Edit(BaseModelRef.of(Checkpoint.open(tiny.folder)), (steer,))
    with pytest.raises(EditError, match=r"model\.layers\.1\.mlp\.down_proj.*no bias"):
        bake(edit, tiny.folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert (under(edit, tiny.model) - logits(tiny.model)).abs().max() > 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_weights_are_edited_in_float32_and_rounded_once(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    tiny = build(tmp_path / "in", "llama")
    tiny.model.to(dtype).save_pretrained(tmp_path / "in")
    bake(Edit.ablation(tmp_path / "in", unit(), 0.7), tmp_path / "in", tmp_path / "out")
    name, r = "model.layers.2.mlp.down_proj.weight", unit()
    old, new = (read_tensor(Checkpoint.open(tmp_path / side), name) for side in ("in", "out"))
    assert new.dtype == dtype
    expected = (old.float() - 0.7 * torch.outer(r, r @ old.float())).to(dtype)
    assert ((new.float() - expected.float()).abs() <= expected.float().abs() * torch.finfo(dtype).eps).all()
    assert (new == expected).float().mean() > 0.99


# What an ablation does to the stream


def largest_share(model: torch.nn.Module, rows: torch.Tensor) -> list[float]:
    """|B x| / |x|, the largest over tokens, at every point of the stream."""
    with capture(model) as stream, torch.no_grad():
        model(tokens())
    assert len(stream) == LAYERS * len(SITES)
    return [((x @ rows.T).norm(dim=-1) / x.norm(dim=-1)).max().item() for x in stream.values()]


@pytest.mark.parametrize("norm", ["none", "column"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_after_a_full_ablation_the_stream_holds_nothing_of_the_direction(
    tiny_of, tmp_path: Path, model_type: str, k: int, norm: str
) -> None:
    tiny, rows = tiny_of(model_type, tied=True), orthonormal(k)
    edit = Edit.ablation(tiny.folder, rows, norm=norm)
    assert min(largest_share(tiny.model, rows)) > 0.1
    assert max(largest_share(baked(edit, tiny, tmp_path / "out"), rows)) < 1e-5
    with edit.hooks(tiny.model):
        assert max(largest_share(tiny.model, rows)) < 1e-5


def test_biases_are_ablated_too(tiny_of, tmp_path: Path) -> None:
    tiny, rows = tiny_of("llama", **BIASED), orthonormal(2)
    model = baked(Edit.ablation(tiny.folder, rows), tiny, tmp_path / "out")
    assert max(largest_share(model, rows)) < 1e-5
    assert (rows @ tiny.model.model.layers[0].mlp.down_proj.bias).abs().max() > 0.1


def test_one_writer_left_out_keeps_the_direction_in_the_stream(tiny_of) -> None:
    tiny, r = tiny_of(), unit()
    edit = Edit.ablation(tiny.folder, r)
    for left in range(len(edit.operations)):
        rest = dataclasses.replace(edit, operations=edit.operations[:left] + edit.operations[left + 1 :])
        with rest.hooks(tiny.model):
            assert max(largest_share(tiny.model, r[None])) > 1e-2


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_ablating_the_writers_is_ablating_the_stream_at_every_point(tiny_of, model_type: str) -> None:
    tiny, rows = tiny_of(model_type), orthonormal(2)
    everywhere = {(site, layer): ablate(rows) for site in SITES for layer in range(LAYERS)}
    with intervene(tiny.model, everywhere):
        expected = logits(tiny.model)
    torch.testing.assert_close(under(Edit.ablation(tiny.folder, rows), tiny.model), expected, **ROUNDING)
    assert (expected - logits(tiny.model)).abs().max() > 0.05


# Nothing lost


@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_an_empty_edit_gives_a_byte_identical_folder(
    tiny_of, tmp_path: Path, model_type: str, tied: bool, sharded: bool
) -> None:
    tiny = tiny_of(model_type, tied=tied, sharded=sharded)
    before = file_hashes(tiny.folder)
    assert len([name for name in before if name.endswith(".safetensors")]) == 1 or sharded
    receipt = bake(Edit(BaseModelRef.of(Checkpoint.open(tiny.folder))), tiny.folder, tmp_path / "out")
    assert file_hashes(tmp_path / "out") == before
    assert receipt.edited == ()
    assert receipt.parameters == 0


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
def test_every_tensor_that_the_edit_does_not_name_is_byte_identical(
    tiny_of, tmp_path: Path, sharded: bool, tied: bool
) -> None:
    tiny = tiny_of("qwen2", tied=tied, sharded=sharded)
    source = file_hashes(tiny.folder)
    edit = Edit.ablation(tiny.folder, unit()).only(layers=[1, 2])
    receipt = bake(edit, tiny.folder, tmp_path / "out")
    before, after = tensors(tiny.folder), tensors(tmp_path / "out")
    named = {f"model.layers.{n}.{w}.weight" for n in (1, 2) for w in ("self_attn.o_proj", "mlp.down_proj")}
    assert {name for name in before if before[name] != after[name]} == named == set(receipt.edited)
    assert before.keys() == after.keys()
    assert file_hashes(tiny.folder) == source
    others = {name for name in source if not name.endswith(".safetensors")}
    assert {name: file_hashes(tmp_path / "out")[name] for name in others} == {
        name: source[name] for name in others
    }


def test_the_receipt_names_every_writer_once(tiny_of, tmp_path: Path) -> None:
    tiny = tiny_of("llama", **BIASED)
    edit = Edit.ablation(tiny.folder, unit()).only(layers=[0], components=["mlp"])
    receipt = bake(edit, tiny.folder, tmp_path / "out")
    assert sorted(receipt.edited) == [
        "model.layers.0.mlp.down_proj.bias",
        "model.layers.0.mlp.down_proj.weight",
    ]
    assert receipt.parameters == WIDTH * 48 + WIDTH
    assert len(receipt.left) == 1 + LAYERS * 4 - 2
    assert not set(receipt.edited) & {name for name, _ in receipt.left}
    json.dumps(receipt.to_json())


def test_the_same_edit_gives_the_same_bytes(tiny_of, tmp_path: Path) -> None:
    tiny = tiny_of(tied=True, sharded=True)
    for name in ("a", "b"):
        bake(Edit.ablation(tiny.folder, unit(), 0.3), tiny.folder, tmp_path / name)
    assert file_hashes(tmp_path / "a") == file_hashes(tmp_path / "b")


def test_other_formats_of_the_weights_are_left_behind_and_named(tmp_path: Path) -> None:
    tiny = build(tmp_path / "in", "llama")
    (tmp_path / "in" / "original").mkdir()
    for name in ("model.gguf", "original/consolidated.00.pth"):
        (tmp_path / "in" / name).write_bytes(b"the unedited weights")
    receipt = bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")
    assert "model.gguf" in receipt.notes[0]
    assert "original/consolidated.00.pth" in receipt.notes[0]
    assert not {"model.gguf", "original/consolidated.00.pth"} & file_hashes(tmp_path / "out").keys()


# Tied embeddings


@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("model_type", ["llama", "smollm3"])
def test_editing_a_tied_embedding_unties_the_head_which_keeps_its_values(
    tiny_of, tmp_path: Path, model_type: str, sharded: bool
) -> None:
    tiny = tiny_of(model_type, tied=True, sharded=sharded)
    receipt = bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")
    before, after = tensors(tiny.folder), tensors(tmp_path / "out")
    assert HEAD not in before
    assert after[HEAD] == before[EMBEDDING] != after[EMBEDDING]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("untied" in note for note in receipt.notes)
    model = load(tmp_path / "out")
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    with safe_open(tmp_path / "out" / Checkpoint.open(tmp_path / "out").tensors[HEAD].shard, "pt") as file:
        assert torch.equal(file.get_tensor(HEAD), tiny.model.lm_head.weight)


def test_a_longer_index_counts_the_new_head(tiny_of, tmp_path: Path) -> None:
    tiny = tiny_of(tied=True, sharded=True)
    bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")
    sizes = [
        json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
        for folder in (tiny.folder, tmp_path / "out")
    ]
    assert sizes[1] - sizes[0] == tiny.model.lm_head.weight.numel() * 4


@pytest.mark.parametrize("metadata", [None, [], {"total_size": "many"}], ids=str)
def test_an_index_with_odd_metadata_is_kept(tmp_path: Path, metadata: object) -> None:
    tiny = build(tmp_path / "in", "llama", tied=True, sharded=True)
    index = tmp_path / "in" / "model.safetensors.index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "metadata": metadata}))
    bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")
    written = json.loads((tmp_path / "out" / index.name).read_text())
    assert written["metadata"] == metadata
    assert HEAD in written["weight_map"]


@pytest.mark.parametrize("norm", ["none", "column", "row"])
def test_an_edit_without_the_embedding_leaves_it_tied(tiny_of, tmp_path: Path, norm: str) -> None:
    tiny = tiny_of("llama", tied=True)
    edit = Edit.ablation(tiny.folder, unit(), norm=norm, embeddings=False)
    bake(edit, tiny.folder, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == (tiny.folder / "config.json").read_bytes()
    before, after = tensors(tiny.folder), tensors(tmp_path / "out")
    assert HEAD not in after
    assert after[EMBEDDING] == before[EMBEDDING]
    hold_together(edit, tiny, tmp_path / "again")


def with_stored_head(tmp_path: Path, head: torch.Tensor | None = None) -> Tiny:
    """A tied model whose file holds the head as well."""
    from safetensors.torch import load_file, save_file

    tiny = build(tmp_path / "in", "llama", tied=True)
    state = load_file(tiny.folder / "model.safetensors")
    state[HEAD] = state[EMBEDDING].clone() if head is None else head
    save_file(state, tiny.folder / "model.safetensors", metadata={"format": "pt"})
    return tiny


def test_a_tied_head_that_is_stored_keeps_its_place_and_values(tmp_path: Path) -> None:
    tiny = with_stored_head(tmp_path)
    bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")
    before, after = tensors(tiny.folder), tensors(tmp_path / "out")
    assert after[HEAD] == before[HEAD] != after[EMBEDDING]
    torch.testing.assert_close(
        logits(load(tmp_path / "out")), under(Edit.ablation(tiny.folder, unit()), tiny.model), **ROUNDING
    )


def test_a_head_that_differs_is_untied_as_in_transformers(tmp_path: Path) -> None:
    tiny = with_stored_head(tmp_path, torch.randn(97, WIDTH, generator=torch.Generator().manual_seed(1)))
    edit = Edit.ablation(tiny.folder, unit())
    live = load(tiny.folder)
    receipt = bake(edit, tiny.folder, tmp_path / "out")
    before, after = tensors(tiny.folder), tensors(tmp_path / "out")
    assert after[HEAD] == before[HEAD] != after[EMBEDDING] != before[EMBEDDING]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("holds two different ones" in note for note in receipt.notes)
    torch.testing.assert_close(logits(load(tmp_path / "out")), under(edit, live), **ROUNDING)
