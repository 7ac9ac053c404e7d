"""A GGUF file edited in place holds what a bake makes of the same model, and otherwise the bytes
that it had.

The oracles are the bake of the model folder, and the gguf library, which writes the files and reads
the results.
"""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from edited_gguf import MODELS, WIDTH, Of, one_of, rows
from gguf_files import read, state, stored_name, values, write_gguf
from tiny import LAYERS, Tiny
from torch import Tensor
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from vectomy.checkpoint import Checkpoint
from vectomy.checkpoint.gguf import GgufFile, gguf_mark, rewrite, rewrite_gguf
from vectomy.checkpoint.gguf import block_rounding as requantise
from vectomy.cli import app
from vectomy.core.errors import EditError
from vectomy.edits.edit import BaseModelRef, Edit, Operation
from vectomy.edits.export import bake, edit_gguf, gguf_convert, write_gguf_lora
from vectomy.workflows.evaluate import subjects
from vectomy.workflows.run import run

TIER = "tiny"


@pytest.fixture
def of(tiny_of) -> Of:
    return partial(one_of, tiny_of)


def in_place(edit: Edit, tiny: Tiny, folder: Path, kind: str = "F32") -> tuple[Path, Path]:
    """(file, edited file)."""
    write_gguf(tiny, folder / "in.gguf", kind)
    edit_gguf(edit, folder / "in.gguf", folder / "out.gguf", base=tiny.folder)
    return folder / "in.gguf", folder / "out.gguf"


def hold_to_bake(edit: Edit, tiny: Tiny, folder: Path) -> set[str]:
    """Every tensor of the edited file is the baked one; gives the names of those that changed."""
    before, after = (read(path) for path in in_place(edit, tiny, folder))
    bake(edit, tiny.folder, folder / "baked")
    baked = state(folder / "baked")
    architecture = GgufFile.open(folder / "out.gguf").architecture
    assert {stored_name(architecture, LAYERS, name) for name in baked} == set(after)
    changed = set()
    for name, wanted in baked.items():
        stored = stored_name(architecture, LAYERS, name)
        torch.testing.assert_close(values(after[stored]), wanted.float(), rtol=1e-5, atol=1e-6, msg=name)
        if stored not in before or not torch.equal(values(before[stored]), values(after[stored])):
            changed.add(stored)
    return changed


# The same function


@pytest.mark.parametrize("label", MODELS)
def test_an_edited_file_is_the_baked_model(of: Of, tmp_path: Path, label: str) -> None:
    tiny = of(label)
    changed = hold_to_bake(Edit.ablation(tiny.folder, rows(2), 0.7), tiny, tmp_path)
    writers = {
        f"blk.{layer}.{name}.weight" for layer in range(LAYERS) for name in ("attn_output", "ffn_down")
    }
    biases = (
        {name.replace(".weight", ".bias") for name in writers}
        if label in ("llama-biases", "starcoder2")
        else set()
    )
    untied = {"output.weight"} if tiny.model.config.tie_word_embeddings else set()
    assert changed == writers | biases | untied | {"token_embd.weight"}


def test_norm_modes_and_ranks_differ_from_writer_to_writer(of: Of, tmp_path: Path) -> None:
    tiny, basis = of("llama"), rows(3)
    operations = (
        Operation("embedding", None, basis[:1], torch.tensor([1.5]), "column"),
        Operation("attention", 0, basis[:2], torch.tensor([1.0, -0.5]), "row"),
        Operation("mlp", 1, basis, torch.tensor([2.0, 0.3, 1.0]), "column"),
        Operation("mlp", 3, basis[:1], torch.tensor([0.0])),
    )
    edit = Edit(BaseModelRef.of(Checkpoint.open(tiny.folder)), operations)
    assert hold_to_bake(edit, tiny, tmp_path) == {
        "token_embd.weight",
        "blk.0.attn_output.weight",
        "blk.1.ffn_down.weight",
    }


def added(folder: Path, component: str = "mlp", layer: int = 2) -> Edit:
    operation = Operation(component, layer, rows(), torch.zeros(1), addition=torch.randn(WIDTH))  # type: ignore[arg-type]
    return Edit(BaseModelRef.of(Checkpoint.open(folder)), (operation,))


def test_a_bias_holds_an_added_vector(of: Of, tmp_path: Path) -> None:
    """The bake gives all modules of that switch biases of zero; a file needs the one."""
    plain, biased = of("llama"), of("llama-biases")
    for component, name in (("mlp", "ffn_down"), ("attention", "attn_output")):
        for folder in (tmp_path / name, tmp_path / f"{name}-there"):
            folder.mkdir()
        edit = added(plain.folder, component)
        before, after = (read(path) for path in in_place(edit, plain, tmp_path / name))
        assert set(after) - set(before) == {f"blk.2.{name}.bias"}
        addition = edit.operations[0].addition
        assert addition is not None
        torch.testing.assert_close(values(after[f"blk.2.{name}.bias"]), addition)
        changed = hold_to_bake(added(biased.folder, component), biased, tmp_path / f"{name}-there")
        assert changed == {f"blk.2.{name}.bias"}


def test_no_bias_where_llama_cpp_reads_none(of: Of, tmp_path: Path) -> None:
    tiny = of("qwen3")
    with pytest.raises(EditError, match=r"adds a vector to layer 2 mlp.*no bias there in a qwen3 model"):
        in_place(added(tiny.folder), tiny, tmp_path)
    assert not (tmp_path / "out.gguf").exists()


# Bytes


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
@pytest.mark.parametrize("label", ["llama-tied", "llama-biases"])
def test_types_stay_and_what_is_not_edited_keeps_its_bytes(
    of: Of, tmp_path: Path, label: str, kind: str
) -> None:
    tiny = of(label)
    edit = Edit.ablation(tiny.folder, rows()).only(layers=[1, 2])
    source, out = in_place(edit, tiny, tmp_path, kind)
    before, after = read(source), read(out)
    assert [(t.name, t.tensor_type, list(t.shape)) for t in before.values()] == [
        (t.name, t.tensor_type, list(t.shape)) for t in after.values()
    ]
    direction = rows()[0]
    for name, old in before.items():
        edited = name.split(".")[1] in ("1", "2") and ("attn_output" in name or "ffn_down" in name)
        assert (old.data.tobytes() == after[name].data.tobytes()) != edited, name
        if name.endswith(".weight") and edited:
            wanted = values(old) - torch.outer(direction, direction @ values(old))
            noise = {
                "F16": 1e-3,
                "BF16": 5e-3,
                "Q8_0": 0.01,
                "Q5_1": 0.05,
                "Q5_0": 0.06,
                "Q4_1": 0.1,
                "Q4_0": 0.12,
            }[kind]
            assert float((values(after[name]) - wanted).norm() / wanted.norm()) < noise
            # Columns this short (64 values) are missed by a step now and then.
            assert float((direction @ values(after[name])).norm() / (direction @ values(old)).norm()) < 0.05
    # All between magic and tensors but their count, which is the same here.
    assert (
        source.read_bytes()[: GgufFile.open(source).keys_end]
        == out.read_bytes()[: GgufFile.open(out).keys_end]
    )


def test_an_edit_of_a_tied_embedding_leaves_the_head_its_bytes(of: Of, tmp_path: Path) -> None:
    tiny = of("llama-tied")
    source, out = in_place(Edit.ablation(tiny.folder, rows()), tiny, tmp_path, "Q8_0")
    before, after = read(source), read(out)
    assert after["output.weight"].data.tobytes() == before["token_embd.weight"].data.tobytes()
    assert after["token_embd.weight"].data.tobytes() != before["token_embd.weight"].data.tobytes()
    assert list(after) == [*before, "output.weight"]


def test_nothing_changes_nothing(of: Of, tmp_path: Path) -> None:
    write_gguf(of("llama"), tmp_path / "in.gguf", "Q4_1")
    rewrite_gguf(GgufFile.open(tmp_path / "in.gguf"), tmp_path / "out.gguf", {})
    assert (tmp_path / "in.gguf").read_bytes() == (tmp_path / "out.gguf").read_bytes()


def test_one_stretch_that_needs_a_better_type_gives_it_to_the_whole_tensor(of: Of, tmp_path: Path) -> None:
    write_gguf(of("llama"), tmp_path / "in.gguf", "Q4_1")
    seen: list[int] = []

    def store(raw: Any, kind: str, old: Tensor, new: Tensor, vectors: Any) -> requantise.StoredBlocks:
        seen.append(len(old))
        return (requantise.store_as("Q8_0") if len(seen) == 3 else requantise.requantize_blocks)(
            raw, kind, old, new, vectors
        )

    change = rewrite.GgufChange(lambda old: old * 0.5, "input", store, stretch=10 * WIDTH)
    costs = rewrite_gguf(
        GgufFile.open(tmp_path / "in.gguf"), tmp_path / "out.gguf", {"token_embd.weight": change}
    )
    assert seen == [10, 10, 10]
    before, after = read(tmp_path / "in.gguf"), read(tmp_path / "out.gguf")
    for name, tensor in after.items():
        if name == "token_embd.weight":
            assert tensor.tensor_type.name == costs[name].type == "Q8_0"
            torch.testing.assert_close(values(tensor), values(before[name]) / 2, rtol=0, atol=0.02)
        else:
            assert tensor.data.tobytes() == before[name].data.tobytes()


def test_quantising_a_file_keeps_vectors_and_says_its_type(of: Of, tmp_path: Path) -> None:
    write_gguf(of("llama"), tmp_path / "in.gguf")
    gguf_convert.quantise_gguf(GgufFile.open(tmp_path / "in.gguf"), tmp_path / "out.gguf", "q4_1")
    before, after = read(tmp_path / "in.gguf"), read(tmp_path / "out.gguf")
    for name, tensor in after.items():
        wanted = (
            "F32" if "norm" in name else "Q8_0" if name in ("token_embd.weight", "output.weight") else "Q4_1"
        )
        assert tensor.tensor_type.name == wanted
        old = values(before[name])
        assert float((values(tensor) - old).norm() / old.norm()) < 0.1
    assert GgufFile.open(tmp_path / "out.gguf").metadata["general.file_type"] == 3


# Adapters


@pytest.mark.parametrize("label", ["llama", "llama-tied", "qwen2", "mistral"])
def test_an_adapter_at_scale_s_is_the_edit_times_s(of: Of, tmp_path: Path, label: str) -> None:
    """llama.cpp computes W x + scale alpha / rank B A x: one alpha, and a rank per weight."""
    tiny, basis = of(label), rows(3)
    operations = (
        Operation("attention", 0, basis[:2], torch.tensor([1.0, -0.5])),
        Operation("mlp", 1, basis, torch.tensor([2.0, 0.0, 1.0])),
        Operation("mlp", 3, basis[:1], torch.tensor([0.4])),
    )
    edit = Edit(BaseModelRef.of(Checkpoint.open(tiny.folder)), operations)
    write_gguf_lora(edit, tiny.folder, tmp_path / "lora.gguf")
    path = tmp_path / "lora.gguf"
    file, tensors = GgufFile.open(path, model=False), read(path)
    assert (file.metadata["general.type"], file.metadata["adapter.type"]) == ("adapter", "lora")
    before, alpha, found = state(tiny.folder), file.metadata["adapter.lora.alpha"], set()
    for scale in (1.0, 0.3):
        bake(edit * scale, tiny.folder, tmp_path / f"baked-{scale}")
        for name, wanted in state(tmp_path / f"baked-{scale}").items():
            stored = stored_name(file.architecture, LAYERS, name)
            change = wanted - before[name]
            if f"{stored}.lora_a" in tensors:
                a, b = (values(tensors[f"{stored}.lora_{part}"]) for part in "ab")
                torch.testing.assert_close(scale * alpha / len(a) * b @ a, change, rtol=1e-4, atol=1e-5)
                found.add(stored)
            else:
                assert not change.any()
    assert found == {"blk.0.attn_output.weight", "blk.1.ffn_down.weight", "blk.3.ffn_down.weight"}
    assert len(tensors) == 6


def test_what_an_adapter_cannot_hold_is_refused_by_name(of: Of, tmp_path: Path) -> None:
    folder = of("llama").folder
    cases = [
        (folder, Edit.ablation(folder, rows()), "embedding: .* not written for embeddings"),
        (
            folder,
            Edit.ablation(folder, rows(), norm="row", embeddings=False),
            "layer 0 attention: norm mode row",
        ),
        (folder, added(folder), "adds a vector to layer 2 mlp"),
        (folder, Edit.ablation(folder, rows()) * 0.0, "changes nothing"),
        (
            biased := of("llama-biases").folder,
            Edit.ablation(biased, rows(), embeddings=False),
            r"layer 0 attention: .*has a bias",
        ),
    ]
    for base, edit, message in cases:
        with pytest.raises(EditError, match=message):
            write_gguf_lora(edit, base, tmp_path / "lora.gguf")
    assert not list(tmp_path.iterdir())


# Command line


def test_apply_edits_a_file_as_it_is(of: Of, tmp_path: Path) -> None:
    tiny, run = of("llama"), CliRunner()
    write_gguf(tiny, tmp_path / "in.gguf", "Q8_0")
    edit, out = tmp_path / "edit.safetensors", tmp_path / "out.gguf"
    Edit.ablation(tiny.folder, rows()).save(edit)
    arguments = ["apply", str(edit), str(tmp_path / "in.gguf"), "--out", str(out)]
    said = run.invoke(app, [*arguments, "--base", str(tiny.folder)])
    assert said.exit_code == 0, said.output
    assert "rounding puts back at most" in said.stdout
    assert "edited in their own types: 9 of Q8_0" in said.stdout
    shutil.copy(out, tmp_path / "first.gguf")
    out.unlink()
    assert run.invoke(app, [*arguments, "--as", "gguf", "--base", str(tiny.folder), "--json"]).exit_code == 0
    assert out.read_bytes() == (tmp_path / "first.gguf").read_bytes()
    for more, message in (
        (["--quant", "q8_0"], "--quant needs --as gguf"),
        (["--as", "lora", "--base", str(tiny.folder)], "--base is for"),
    ):
        failed = run.invoke(app, [*arguments, *more])
        assert message in str(failed.exception)
    blocks = Edit.ablation(tiny.folder, rows(), embeddings=False)
    blocks.save(edit)
    lora = tmp_path / "lora.gguf"
    assert (
        run.invoke(
            app, ["apply", str(edit), str(tiny.folder), "--as", "gguf-lora", "--out", str(lora)]
        ).exit_code
        == 0
    )
    assert len(read(lora)) == 4 * LAYERS


def test_evaluate_takes_a_file_for_a_model(of: Of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = of("llama")
    write_gguf(tiny, tmp_path / "in.gguf")
    monkeypatch.setattr("vectomy.models.demo.fetch", {str(tmp_path / "in.gguf"): tiny.folder}.__getitem__)
    (found,) = subjects.open_subjects([str(tmp_path / "in.gguf")])
    assert (found.kind, found.name) == ("base", "in.gguf")


# A whole run


@pytest.mark.chat
def test_a_run_from_a_file_ends_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search is on dequantised weights, which here is the folder that the file was made of."""
    folder = tiny_chat.folder()
    model = AutoModelForCausalLM.from_pretrained(folder)
    write_gguf(Tiny(model, folder), tmp_path / "in.gguf", "F16")
    data = (tmp_path / "in.gguf").read_bytes()
    monkeypatch.setattr(
        "vectomy.models.demo.fetch", lambda name: folder if name.endswith("in.gguf") else None
    )
    options = {
        "device": "cpu",
        "answer_tokens": 8,
        "behaviour_tokens": ["I"],
        "recipe": "arditi",
        "embeddings": False,
    }
    run(str(tmp_path / "in.gguf"), tmp_path / "run", until="apply", **tiny_chat.sources(), **options)
    receipt = json.loads((tmp_path / "run" / "receipt-gguf.json").read_text())
    baked, after = state(tmp_path / "run" / "checkpoint"), read(tmp_path / "run" / "edited.gguf")
    layers = model.config.num_hidden_layers
    assert receipt["edited"]
    for name, value in baked.items():
        torch.testing.assert_close(
            values(after[stored_name("llama", layers, name)]), value.float(), rtol=2e-3, atol=1e-3
        )
    edit = Edit.load(tmp_path / "run" / "edit.safetensors")
    assert edit.about["gguf_sha256"] == gguf_mark(tmp_path / "in.gguf")["gguf_sha256"]
    assert (tmp_path / "in.gguf").read_bytes() == data
