"""`plan` reads headers, and names what an edit would touch and what it takes."""

from __future__ import annotations

import importlib.util
import json
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tiny_chat
import torch
import zoo
from counted_pass import SHAPES, config_folder
from quantised_folder import quantised
from tiny import LAYERS, VOCAB, WIDTH, build, unit

from vectomy import Edit, bake
from vectomy import plan as plan_on_this_machine
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.cli.tables.plan_table import print_plan
from vectomy.cli.tables.receipt_table import name_pattern
from vectomy.core.errors import ArchitectureError, ModelError
from vectomy.models.model_shape import count_multiplied
from vectomy.models.speed_probe import CallTime, Speeds

if TYPE_CHECKING:
    from command_line import Vectomy

TIER = "zoo"
# Of no machine: a second for each call, token, row, label, and a nanosecond for each byte.
ONE = CallTime(1, 1)
SPEEDS = Speeds("cpu", ONE, CallTime(3, 3), ONE, ONE, CallTime(2, 2), 1e-9, 1e-9, 1e-9)
plan = partial(plan_on_this_machine, device="cpu", speeds=SPEEDS)
STAGES = ["baseline", "collect", "directions", "select", "apply", "evaluate", "report"]


def test_it_names_each_writer_once_with_its_axis_and_the_norm_in_between(tmp_path: Path) -> None:
    zoo.zoo_folder("gemma2", tmp_path / "in")
    found = plan(tmp_path / "in")
    rows = {row.name: row for row in found.writers}
    assert len(rows) == len(found.writers) == 1 + 2 * found.layers
    stored = {row["name"]: row for row in found.to_json()["writers"]}
    assert stored["model.embed_tokens.weight"] | {"parameters": 0} == {
        "name": "model.embed_tokens.weight",
        "component": "embedding",
        "layer": None,
        "axis": 1,
        "through_norm": [],
        "bias": [],
        "experts": None,
        "parameters": 0,
    }
    down = rows["model.layers.1.mlp.down_proj.weight"]
    assert (down.layer, down.axis, down.component) == (1, 0, "mlp")
    assert down.through_norm == ["model.layers.1.post_feedforward_layernorm"]
    assert any("untie" in note for note in found.notes)


def test_experts_that_are_stored_one_by_one_are_one_writer(tmp_path: Path) -> None:
    zoo.zoo_folder("qwen3_next", tmp_path / "in")
    experts = [row for row in plan(tmp_path / "in").writers if row.component == "experts"]
    assert experts[0].name == "model.layers.0.mlp.experts.{expert}.down_proj.weight"
    assert experts[0].experts == 4


@pytest.mark.tiny
def test_it_plans_what_a_bake_then_does(tmp_path: Path, tiny_of) -> None:
    tiny = tiny_of("llama", tied=True)
    found = plan(tiny.folder)
    receipt = bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out")
    assert found.parameters == receipt.parameters
    assert {row.name for row in found.writers} == set(receipt.edited)
    size = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert found.disk_bytes == pytest.approx(size, rel=0.05)
    assert found.memory_bytes > 0
    assert set(found.seconds) == {"bake", "collect"}


@pytest.mark.tiny
def test_a_plan_says_what_each_stage_takes_and_for_how_much_work(
    tiny_of, capsys: pytest.CaptureFixture[str]
) -> None:
    result = plan(tiny_of("llama", tied=True).folder)
    assert [stage.name for stage in result.stages] == STAGES
    for stage in result.to_json()["stages"]:
        assert set(stage) == {"name", "seconds", "memory_bytes", "device_bytes"}
        assert stage["seconds"] > 0
        assert stage["memory_bytes"] > 100 << 20
        assert stage["device_bytes"] is None, "there is no card"
    assert set(result.seconds) == {"bake", "collect"}
    print_plan(result)
    out = " ".join(capsys.readouterr().out.split())
    assert "256 + 32 + 100 prompts a side, of 64 tokens, and answers of 64 tokens" in out
    assert all(f"{name} " in out for name in (*STAGES, "all"))


@pytest.mark.tiny
@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B", "a mixture of 1T"])
def test_a_configuration_alone_is_planned_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = plan(config_folder(name))
    stages = {stage.name: stage for stage in result.stages}
    assert list(stages) == STAGES
    block = 2 * SHAPES[name]["hidden_size"] ** 2
    assert all(stage.memory_bytes > block for stage in result.stages)
    assert all(0 < stage.seconds < float("inf") for stage in result.stages)
    # A model that fits is in memory as a whole; of another one two blocks are.
    assert stages["evaluate"].memory_bytes > result.disk_bytes or not result.fits
    assert sum(writer.parameters for writer in result.writers) == result.parameters
    print_plan(result)
    printed = capsys.readouterr().out
    assert "the folder holds no weights" in " ".join(printed.split())
    # Whole names, at any width of the terminal; no column without a value.
    assert all(f"{name_pattern(writer.name)} " in printed for writer in result.writers)
    assert "through" not in printed


@pytest.mark.tiny
def test_a_configuration_and_its_weights_are_planned_for_alike(tmp_path: Path, tiny_of) -> None:
    whole = tiny_of("llama", tied=False).folder
    (tmp_path / "config.json").write_bytes((whole / "config.json").read_bytes())
    alone, stored = plan(tmp_path), plan(whole)
    assert [(w.name, w.axis, w.parameters) for w in alone.writers] == [
        (w.name, w.axis, w.parameters) for w in stored.writers
    ]
    for one, other in zip(alone.stages, stored.stages, strict=True):
        assert one.seconds == pytest.approx(other.seconds, rel=0.02)
        assert one.memory_bytes == pytest.approx(other.memory_bytes, rel=0.02)


@pytest.mark.tiny
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_weights_quantised_in_memory_are_planned_for(tmp_path: Path, tiny_of) -> None:
    """The bake stays in full precision, and so do its memory and its disk."""
    folder = tiny_of("llama", tied=True).folder
    plain, packed = plan(folder), plan(folder, load_in="4bit")
    assert (packed.memory_bytes, packed.disk_bytes) == (plain.memory_bytes, plain.disk_bytes)
    assert packed.memory["collect_whole"] < plain.memory["collect_whole"]
    collect, before = (next(s for s in p.stages if s.name == "collect") for p in (packed, plain))
    saved = plain.memory["collect_whole"] - packed.memory["collect_whole"]
    assert before.memory_bytes - collect.memory_bytes == pytest.approx(saved, rel=0.05)
    # Weights in fp8 are decoded and quantised again.
    fp8 = plan(quantised(folder, "block", tmp_path), load_in="4bit")
    assert fp8.memory["collect_whole"] == packed.memory["collect_whole"]


@pytest.mark.tiny
def test_a_configuration_that_transformers_cannot_build_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": "many"}')
    with pytest.raises(ModelError, match="num_attention_heads"):
        plan(tmp_path)


@pytest.mark.tiny
def test_the_bound_counts_only_weights_that_every_token_is_multiplied_with(tiny_of) -> None:
    """No embedding and no head; of 4 experts the 2 that a token is sent to."""
    dense = architecture_in(Checkpoint.open(tiny_of("llama", tied=True).folder))
    blocks = {name: shape for name, shape in dense.shapes.items() if ".layers." in name and len(shape) == 2}
    assert count_multiplied(dense, dense.text_config) == sum(math.prod(shape) for shape in blocks.values())
    moe = architecture_in(Checkpoint.open(tiny_of("mixtral").folder))
    experts = sum(math.prod(shape) for name, shape in moe.shapes.items() if ".experts." in name)
    others = sum(
        math.prod(shape)
        for name, shape in moe.shapes.items()
        if ".layers." in name and len(shape) == 2 and ".experts." not in name
    )
    assert experts > 0
    text = moe.text_config or {}
    share = text["num_experts_per_tok"] / text["num_local_experts"]
    assert count_multiplied(moe, text) == others + share * experts


@pytest.mark.chat
def test_it_says_what_keeps_prompts_from_the_model(tmp_path: Path) -> None:
    assert plan(tiny_chat.folder()).notes == plan(tiny_chat.folder(template=tiny_chat.NO_SYSTEM)).notes
    folder = tiny_chat.folder(template="<bos>{{ messages[-1]['role'] }} now")
    assert any("leaves out the user's turn" in note for note in plan(folder).notes)
    zoo.zoo_folder("gemma2", tmp_path / "in")
    assert any("has no tokenizer (tokenizer.json" in note for note in plan(tmp_path / "in").notes)


@pytest.mark.tiny
def test_without_embeddings_they_are_left_with_the_reason(tiny_of) -> None:
    found = plan(tiny_of().folder, embeddings=False)
    assert len(found.writers) == 2 * LAYERS
    assert dict(found.left) == {"model.embed_tokens.weight": "not asked for"}


def test_what_is_left_beside_the_text_model_is_named(tmp_path: Path) -> None:
    zoo.zoo_folder("gemma3", tmp_path / "in")
    left = dict(plan(tmp_path / "in").left)
    assert all("another tower" in reason for reason in left.values())
    assert any(name.startswith("vision_tower.") for name in left)


@pytest.mark.tiny
def test_it_reads_no_weight(tmp_path: Path) -> None:
    """The data of every tensor is a hole in the file: reading it would give zeros, and no plan
    depends on them.
    """
    tiny = build(tmp_path / "in", "llama")
    before = plan(tiny.folder).to_json()
    file = tiny.folder / "model.safetensors"
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    file.write_bytes(data[:start] + bytes(len(data) - start))
    after = plan(tiny.folder).to_json()
    assert json.dumps(before) == json.dumps(after)


def test_an_unknown_type_and_a_refused_one_are_named(tmp_path: Path) -> None:
    zoo.zoo_folder("rwkv", tmp_path / "in")
    with pytest.raises(ArchitectureError, match="'rwkv' cannot be edited exactly: its channel mixing"):
        plan(tmp_path / "in")
    assert (WIDTH, VOCAB) == (32, 97)


@pytest.mark.tiny
def test_a_device_that_is_not_here_is_named(tiny_of) -> None:
    with pytest.raises(ModelError, match=r"no device '(cuda:99|mps)'"):
        plan_on_this_machine(tiny_of().folder, device="mps" if torch.cuda.is_available() else "cuda:99")


def test_the_command_plans_the_run_that_the_folder_s_file_configures(
    tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options go over the file; without one, the plan is that of the defaults."""
    monkeypatch.chdir(tmp_path)
    command = ("plan", str(tiny_chat.folder()), "--device", "cpu", "--json")

    def planned(*more: str) -> dict[str, Any]:
        status, out, err = vectomy(*command, *more)
        assert status == 0, err
        return json.loads(out)

    usual = planned()
    assert usual["work"]["steps"] == 36
    (tmp_path / "vectomy.toml").write_text(
        "[run]\nanswer_tokens = 7\nembeddings = false\n[run.contrast]\nn_fit = 20\n[run.selection]\n"
        'steps = 5\n[run.after]\nthen = "nothing"\n',
        encoding="utf-8",
    )
    filed = planned()
    assert [filed["work"][name] for name in ("answer_tokens", "fit", "steps")] == [7, 20, 5]
    assert len(filed["writers"]) == len(usual["writers"]) - 1
    assert len(planned("--embeddings")["writers"]) == len(usual["writers"])
    (tmp_path / "vectomy.toml").write_text("[run]\ntrust_remote_code = true\n", encoding="utf-8")
    assert vectomy(*command)[0] == 2
