"""What an adapter cannot hold exactly is refused by name."""

import warnings
from pathlib import Path

import pytest
import torch
from loaded_adapter import CLOSE, apart, loaded, mixed, orthonormal, untied, wrapped
from peft import PeftModel
from zoo import D_MODEL, zoo_load, zoo_logits

from vectomy.core.errors import EditError
from vectomy.edits.edit import Edit, Operation
from vectomy.edits.export import bake, write_lora
from vectomy.edits.export import peft_targets as forms

TIER = "zoo"


# What cannot be held is refused by name


def refused(folder: Path, edit: Edit, out: Path, match: str) -> None:
    with pytest.raises(EditError, match=match):
        write_lora(edit, folder, out / "adapter")
    assert not list(out.iterdir())


def test_a_tied_embedding_is_refused_for_a_merge_would_change_the_head(
    zoo_of, tmp_path: Path, monkeypatch
) -> None:
    folder = zoo_of("llama:tied")
    edit = Edit.ablation(folder, orthonormal(1))
    refused(
        folder,
        edit,
        tmp_path,
        r"^embedding: 'model\.embed_tokens\.weight' is tied to the head.*embeddings=False",
    )
    monkeypatch.setattr(forms, "_check", lambda *_: None)
    write_lora(edit, folder, tmp_path / "adapter")
    with edit.hooks(base := zoo_load("llama:tied", folder)):
        wanted = zoo_logits(base)
    model = loaded(zoo_load("llama:tied", folder), tmp_path / "adapter")
    assert apart(zoo_logits(model), wanted) < CLOSE
    merged = model.merge_and_unload()
    assert torch.equal(merged.lm_head.weight, merged.model.embed_tokens.weight)
    assert apart(zoo_logits(merged), wanted) > 0.01


def test_a_dense_module_beside_experts_is_targeted_by_its_weight(zoo_of, tmp_path: Path, monkeypatch) -> None:
    """By its name PEFT edits the experts of all layers instead."""
    folder = zoo_of("deepseek_v3")
    edit = Edit.ablation(folder, orthonormal(1)).only(layers=[0], components=["mlp"])
    bake(edit, folder, tmp_path / "baked")
    wanted = zoo_logits(zoo_load("deepseek_v3", tmp_path / "baked"))
    write_lora(edit, folder, tmp_path / "weight")
    assert apart(zoo_logits(loaded(zoo_load("deepseek_v3", folder), tmp_path / "weight")), wanted) < CLOSE
    monkeypatch.setattr(forms, "_form", lambda *_: "linear")
    write_lora(edit, folder, tmp_path / "module")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(zoo_load("deepseek_v3", folder), str(tmp_path / "module"))
    assert "model.layers.0.mlp.down_proj.weight" not in wrapped(model)
    assert apart(zoo_logits(model), wanted) > 0.01


@pytest.mark.parametrize(
    ("label", "options", "match"),
    [
        ("llama", {"norm": "column"}, r"norm mode column.*full rank.*bake"),
        ("gpt_oss", {"norm": "row"}, r"layer 0 experts: norm mode row.*DoRA.*mlp\.experts\.down_proj.*bake"),
        ("opt", {"norm": "row"}, r"position: norm mode row.*embed_positions"),
        ("mamba2", {}, r"layer 0 ssm: PEFT takes no adapter on 'backbone\.layers\.0\.mixer\.out_proj'.*bake"),
        ("dbrx", {}, r"layer 0 experts: PEFT .*mlp\.w2.*dbrx.*bake"),
        ("laguna", {}, r"layer 1 shared_experts: PEFT loses.*laguna.*leave such writers out"),
    ],
)
def test_what_peft_cannot_do_exactly_is_refused(
    zoo_of, tmp_path: Path, label: str, options: dict[str, str], match: str
) -> None:
    folder = zoo_of(label)
    refused(folder, untied(Edit.ablation(folder, orthonormal(1), **options), folder), tmp_path, match)


def test_additions_without_a_bias_and_on_experts_are_refused(zoo_of, tmp_path: Path) -> None:
    zero, vector = torch.zeros(1), orthonormal(1)[0]
    steer = Operation("mlp", 1, orthonormal(1), zero, addition=vector)
    refused(
        zoo_of("llama"), mixed(zoo_of("llama"), steer), tmp_path, r"layers\.1\.mlp\.down_proj' has no bias"
    )
    steer = Operation("experts", 1, orthonormal(1), zero, addition=vector)
    refused(zoo_of("gpt_oss"), mixed(zoo_of("gpt_oss"), steer), tmp_path, r"layer 1 experts.*token by token")


@pytest.mark.parametrize("factor", [0, None])
def test_an_edit_that_changes_nothing_is_refused(zoo_of, tmp_path: Path, factor: int | None) -> None:
    folder = zoo_of("llama")
    edit = (
        Edit.ablation(folder, orthonormal(1)).only(layers=[99]) if factor is None else mixed(folder) * factor
    )
    refused(folder, edit, tmp_path, "changes nothing.*rank 1")


def test_a_row_that_dora_cannot_divide_by_is_refused(zoo_of, tmp_path: Path) -> None:
    axis = torch.eye(D_MODEL)[5:6]
    edit = mixed(zoo_of("llama"), Operation("mlp", 1, axis, torch.ones(1), "row"))
    refused(
        zoo_of("llama"), edit, tmp_path, r"row 5 of 'model\.layers\.1\.mlp\.down_proj\.weight'.*none, or bake"
    )
