"""Kept out: what is learned writes nothing along the removed directions, by algebra and by
`verify`'s receipt; without it, it does.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny_chat
import torch
from healed import damaged, edit, job, pairs, protected_directions, quick, trained
from integer_folder import integer_folder
from peft import LoraConfig, PeftModel, get_peft_model
from quantised_folder import quantised
from tiny import Tiny, load, tokens, unit
from torch import Tensor

from vectomy.checkpoint import Checkpoint
from vectomy.core.errors import CheckpointError, FingerprintError
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake
from vectomy.healing.job import Job
from vectomy.healing.merging import make_adapter_changes, merge_training
from vectomy.healing.projection import (
    find_composite_writers,
    preserve_writer_outputs,
    project_adapter,
    project_adapter_outputs,
    restore_weights,
    share_along,
)
from vectomy.healing.training import train
from vectomy.metrics.verify import verify
from vectomy.models import load_model, with_adapter
from vectomy.workflows.heal.heal_inputs import compute_protected_directions, find_norms_behind
from vectomy.workflows.heal.heal_receipt import removes_fully

TIER = "chat"

PACKED = "model.layers.1.mlp.down_proj"
# float32 through a few sums.
ROUNDING = 1e-5


@pytest.mark.parametrize("objective", ["sft", "dpo"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_verify_finds_the_edit_whole_after_healing_and_not_after_training_without_projection(
    tmp_path: Path, objective: str, method: str
) -> None:
    """The receipt of the merged checkpoint: every edited weight still carries the edit, and the
    running stream has nothing along the direction at any layer. The same training without
    projection writes along it.
    """
    receipts = {}
    for project in (True, False):
        made = trained(tmp_path / str(project), project, objective=objective, method=method, epochs=4.0)
        learned = made.folder / ("weights" if method == "full" else "adapter")
        out = tmp_path / f"healed-{project}"
        assert merge_training(learned, damaged(), out)
        receipts[project] = verify(out, edit())
    assert receipts[True].failures == ()
    assert receipts[True].max_projection < ROUNDING
    # The embedding is edited and no adapter is on it, so the stream begins without the direction
    # all the same.
    assert receipts[False].max_projection > 100 * receipts[True].max_projection
    assert receipts[False].max_projection > 0.005
    assert len(receipts[True].edited) == 2 * 4 + 1


@pytest.mark.parametrize("strength", [0.5, 1.5])
def test_full_training_keeps_what_a_partial_edit_leaves_along_the_direction(
    tmp_path: Path, strength: float
) -> None:
    dialled = edit() * strength
    folder = tmp_path / "edited"
    bake(dialled, tiny_chat.folder(), folder)
    made = job(tmp_path / "job", quick(method="full", epochs=3.0), model=folder)
    train(made)
    merge_training(made.folder / "weights", folder, tmp_path / "healed")
    before, after = load(folder), load(tmp_path / "healed")
    moved = 0.0
    for name, rows in protected_directions().items():
        old, new = before.get_submodule(name).weight, after.get_submodule(name).weight
        axis = 1 if "embed" in name else 0
        change = (new - old).detach().movedim(axis, 0)
        assert float((rows @ change).abs().max()) < ROUNDING, name
        moved = max(moved, float(change.abs().max()))
    assert moved > 1e-3


def test_in_training_the_function_is_the_one_that_is_saved(tmp_path: Path) -> None:
    """Hooks on B's output in training, B itself projected in the file: the same logits."""
    made = trained(tmp_path, epochs=2.0)
    last = max(
        (made.folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])
    )
    raw = PeftModel.from_pretrained(load(damaged()), str(last))
    assert share_along(safetensors.torch.load_file(last / "adapter_model.safetensors")[WRITER], row()) > 1e-3
    saved = PeftModel.from_pretrained(load(damaged()), str(made.folder / "adapter"))
    assert (
        share_along(
            safetensors.torch.load_file(made.folder / "adapter" / "adapter_model.safetensors")[WRITER], row()
        )
        < 1e-6
    )
    ids = tokens() % len(tiny_chat.VOCABULARY)
    with torch.no_grad():
        unheld = raw(ids).logits
        with project_adapter_outputs(raw, protected_directions()) as held:
            trained_as = raw(ids).logits
        merged = saved(ids).logits
    assert len(held) == 2 * 4
    assert torch.allclose(trained_as, merged, atol=1e-4)
    assert not torch.allclose(unheld, merged, atol=1e-3)
    assert not any(module._forward_hooks for module in raw.modules())


WRITER = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"


def row() -> Tensor:
    return protected_directions()["model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize("norm", ["none", "column", "row"])
def test_an_adapter_on_top_of_the_edits_hooks_is_the_merged_model(tmp_path: Path, norm: str) -> None:
    """The hooks change what the base's module gives, the adapter adds to that: no baked weights are
    needed.
    """
    removal = Edit.ablation(tiny_chat.folder(), unit(3), norm=norm)
    bake(removal, tiny_chat.folder(), tmp_path / "edited")
    made = job(tmp_path / "job", quick(objective="sft", epochs=2.0), model=tmp_path / "edited")
    train(made)
    merge_training(made.folder / "adapter", tmp_path / "edited", tmp_path / "healed")
    base = load_model(tiny_chat.folder(), device="cpu", dtype="float32")
    ids = tokens() % len(tiny_chat.VOCABULARY)
    with torch.no_grad(), removal.hooks(base.model):
        over = with_adapter(base, made.folder / "adapter").model(ids).logits
    assert torch.allclose(over, load(tmp_path / "healed")(ids).logits, atol=1e-3)


@pytest.mark.tiny
@pytest.mark.parametrize("model_type", ["gemma2", "gpt2"])
def test_rows_are_folded_through_the_norm_behind_a_writer_and_lie_along_its_own_axis(
    tiny_of: Any, model_type: str, tmp_path: Path
) -> None:
    """Gemma 2 has a norm behind each writer, GPT-2 stores its matrices turned: whatever such a
    writer learns outside of these rows, the stream has nothing along the direction.
    """
    made: Tiny = tiny_of(model_type)
    removal = Edit.ablation(made.folder, unit(5))
    bake(removal, made.folder, tmp_path / "edited")
    rows = compute_protected_directions(removal, made.folder)
    model = load(tmp_path / "edited")
    with torch.no_grad(), preserve_writer_outputs(model, rows) as kept:
        for name in kept:
            weight = model.get_submodule(name).weight
            weight.add_(0.1 * torch.randn(weight.shape))
        ids = tokens()
        held = model(ids).logits
    with torch.no_grad():
        wrong = model(ids).logits
        restore_weights(model, rows, kept)
        assert torch.allclose(model(ids).logits, held, atol=1e-3)
        assert not torch.allclose(wrong, held, atol=1e-2)
    model.save_pretrained(tmp_path / "healed")
    assert verify(tmp_path / "healed", removal).max_projection < 1e-4
    # The embedding of Gemma scales what it gives: it stands still instead.
    assert find_composite_writers(model, rows) == (["model.embed_tokens"] if model_type == "gemma2" else [])


def test_full_training_leaves_the_norms_behind_edited_writers_as_they_are(
    tiny_of: Any, tmp_path: Path
) -> None:
    """With another gain the rows would be other ones, and what was kept out of the old ones would
    reach the stream.
    """
    made: Tiny = tiny_of("gemma2", vocab_size=len(tiny_chat.VOCABULARY))
    removal = Edit.ablation(made.folder, unit(5))
    bake(removal, made.folder, tmp_path / "edited")
    tiny_chat.tokenizer().save_pretrained(tmp_path / "edited")
    norms = find_norms_behind(removal, made.folder)
    assert len(norms) == 2 * 4
    rows, config = (
        compute_protected_directions(removal, made.folder),
        quick(method="full", objective="sft", max_steps=3),
    )
    Job.write(tmp_path / "job", tmp_path / "edited", config, pairs(), rows, norms)
    train(Job(tmp_path / "job"))
    merge_training(tmp_path / "job" / "weights", tmp_path / "edited", tmp_path / "healed")
    before, after = load(tmp_path / "edited"), load(tmp_path / "healed")
    changed = {
        name
        for (name, a), (_, b) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert not changed & {f"{name}.weight" for name in norms}
    assert "model.layers.0.mlp.down_proj.weight" in changed
    assert verify(tmp_path / "healed", removal).max_projection < 1e-4


def test_merging_is_what_peft_merges(tmp_path: Path) -> None:
    made = trained(tmp_path, epochs=2.0)
    merge_training(made.folder / "adapter", damaged(), tmp_path / "healed")
    peft = PeftModel.from_pretrained(load(damaged()), str(made.folder / "adapter")).merge_and_unload()
    ours = load(tmp_path / "healed")
    for (name, theirs), (_, mine) in zip(peft.named_parameters(), ours.named_parameters(), strict=True):
        assert torch.allclose(theirs, mine, atol=1e-6), name


@pytest.mark.tiny
def test_matrices_that_are_stored_turned_are_merged_as_peft_merges_them(tiny_of: Any, tmp_path: Path) -> None:
    """GPT-2's, the square one of its attention among them, whose shape does not say which way round
    it is.
    """
    made: Tiny = tiny_of("gpt2")
    live = get_peft_model(
        load(made.folder), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, value in live.named_parameters():
            if "lora_B" in name:
                value.normal_()
    live.save_pretrained(tmp_path / "adapter")
    merge_training(tmp_path / "adapter", made.folder, tmp_path / "healed")
    ids = tokens()
    with torch.no_grad():
        expected = live.merge_and_unload()(ids).logits
        assert torch.allclose(load(tmp_path / "healed")(ids).logits, expected, atol=1e-3)
        assert not torch.allclose(load(made.folder)(ids).logits, expected, atol=1e-1)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, tiny_of: Any) -> None:
    """By the record beside it; of a stranger's adapter by the shapes."""
    made = trained(tmp_path / "job", max_steps=1)
    adapter = made.folder / "adapter"
    with pytest.raises(FingerprintError, match="was trained on weights"):
        merge_training(adapter, tiny_chat.folder(), tmp_path / "wrong")
    (adapter / "vectomy.json").unlink()
    other = tiny_of("llama", hidden_size=48, num_attention_heads=6).folder
    with pytest.raises(FingerprintError, match="adapter of another base"):
        make_adapter_changes(adapter, Checkpoint.open(other), {})
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("kind", ["fp8", "gptq"])
def test_an_adapter_is_not_added_to_packed_numbers(kind: str, tmp_path: Path) -> None:
    """Values without their scales would take it as another matrix."""
    plain = tiny_chat.folder(taught_=False)
    packed = (
        quantised(plain, "block", tmp_path).path
        if kind == "fp8"
        else integer_folder(plain, tmp_path, "gptq").packed
    )
    shape = safetensors.torch.load_file(plain / "model.safetensors")[f"{PACKED}.weight"].shape
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = f"base_model.model.{PACKED}"
    factors = {"lora_A": torch.ones(2, shape[1]), "lora_B": torch.ones(shape[0], 2)}
    safetensors.torch.save_file(
        {f"{name}.{key}.weight": value for key, value in factors.items()},
        adapter / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=rf"down_proj.weight' of .* is stored in {kind}, .*not quantised"
    ):
        merge_training(adapter, packed, tmp_path / "healed")
    merge_training(adapter, plain, tmp_path / "healed")


def test_an_adapter_that_is_more_than_a_product_is_refused(tmp_path: Path) -> None:
    made = trained(tmp_path, max_steps=1)
    file = made.folder / "adapter" / "adapter_config.json"
    file.write_text(file.read_text().replace('"use_dora": false', '"use_dora": true'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="use_dora"):
        merge_training(made.folder / "adapter", damaged(), tmp_path / "healed")


def test_projecting_an_adapter_leaves_modules_that_do_not_write_alone() -> None:
    other = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    held = {WRITER: torch.randn(32, 4), other: torch.randn(48, 4)}
    done = project_adapter(held, protected_directions())
    assert torch.equal(done[other], held[other])
    assert share_along(done[WRITER], row()) < 1e-6 < share_along(held[WRITER], row())


def test_only_a_whole_removal_can_be_verified_without_the_base() -> None:
    assert removes_fully(edit())
    assert not removes_fully(edit() * 1.5)
    assert not removes_fully(Edit.ablation(tiny_chat.folder(), unit(3), norm="row"))
