"""GPTQ and AWQ weights are read as their formats define them, and a bake writes the plain weights
that a bake of the decoded model writes.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_chat
import torch
from integer_folder import IntegerFolder, integer_folder, pack_bits
from safetensors.torch import load_file, save_file
from tiny import unit

from vectomy import Edit, bake, plan
from vectomy.checkpoint import Checkpoint, architecture_in, read_stored
from vectomy.checkpoint.quantization import check_supported, decode, integer_weights
from vectomy.checkpoint.quantization.integer_groups import dequantise
from vectomy.comparison import compare
from vectomy.core.errors import ArchitectureError, CheckpointError
from vectomy.metrics.verify import verify
from vectomy.models import load_layerwise, load_model, loaded_bytes
from vectomy.models.speed_probe import CallTime, Speeds

TIER = "tiny"
LAYOUTS = [
    *[("gptq", 4, False), ("gptq", 2, True), ("gptq_v2", 3, True), ("gptq_v2", 8, True), ("awq", 4, False)],
    *[("pack-quantized", 4, False), ("pack-quantized", 8, True), ("pack-quantized", 3, False)],
]


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> IntegerFolder:
    return integer_folder(
        tiny_chat.folder(taught_=False), tmp_path_factory.mktemp("gptq"), "gptq", ordered=True
    )


def change(source: Path, out: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy of a folder with the tensors of one layer replaced, or left out."""
    module = "model.layers.1.mlp.down_proj"
    state = load_file(source / "model.safetensors")
    for part, value in tensors.items():
        state.pop(f"{module}.{part}", None)
        state |= {} if value is None else {f"{module}.{part}": value}
    out.mkdir()
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_bytes((source / "config.json").read_bytes())
    return out


@pytest.mark.parametrize(("layout", "bits", "ordered"), LAYOUTS)
def test_weights_are_what_the_quantiser_meant(layout: str, bits: int, ordered: bool, tmp_path: Path) -> None:
    folder = integer_folder(tiny_chat.folder(taught_=False), tmp_path, layout, bits=bits, ordered=ordered)
    checkpoint, plain = Checkpoint.open(folder.packed), Checkpoint.open(folder.plain)
    weights = integer_weights(checkpoint)
    assert len(weights) >= 8
    for name, packed in weights.items():
        parts = {part: read_stored(checkpoint, part) for part in packed.parts}
        assert torch.equal(decode(packed, parts), read_stored(plain, name).float()), name
    assert architecture_in(checkpoint).shapes == architecture_in(plain).shapes


def test_a_zero_point_of_all_bits_is_one_step_above_the_numbers() -> None:
    """The format gptq stores 15 for 16; gptq_v2 means 15."""
    parts = {
        "X.qweight": torch.from_numpy(pack_bits(np.full((8, 8), 3), 4)).T.contiguous(),
        "X.qzeros": torch.from_numpy(pack_bits(np.full((1, 8), 15), 4)),
        "X.scales": torch.full((1, 8), 0.5, dtype=torch.float16),
    }
    for layout, zero in (("gptq", 16), ("gptq_v2", 15)):
        weight = dequantise(layout, "X.weight", (8, 8), parts)
        assert weight.dtype == torch.float16
        assert torch.equal(weight, torch.full((8, 8), 0.5 * (3 - zero), dtype=torch.float16))


@pytest.mark.parametrize("layout", ["gptq", "awq", "pack-quantized"])
def test_a_live_model_computes_with_the_decoded_weights(layout: str, tmp_path: Path) -> None:
    """Whole and block by block, without the packages of the formats."""
    folder = integer_folder(tiny_chat.folder(taught_=False), tmp_path, layout)
    live, oracle = (load_model(path, device="cpu") for path in (folder.packed, folder.plain))
    assert live.end_tokens == oracle.end_tokens
    assert {name: value.dtype for name, value in live.model.named_parameters()} == {
        name: value.dtype for name, value in oracle.model.named_parameters()
    }
    ids = torch.tensor(live.tokens(tiny_chat.prompts(tiny_chat.NIGHT, 2)))
    streamed = load_layerwise(folder.packed, device="cpu", passes=True)
    with torch.no_grad():
        expected = oracle.model(ids).logits
        assert torch.equal(live.model(ids).logits, expected)
        torch.testing.assert_close(streamed.model(ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral"])
def test_experts_that_are_packed_one_by_one_are_fused_and_edited(
    model_type: str, zoo_of: Any, tmp_path: Path
) -> None:
    folder = integer_folder(zoo_of(model_type), tmp_path, "gptq_v2", bits=8, group=4)
    assert sum(".experts." in name for name in integer_weights(Checkpoint.open(folder.packed))) >= 24
    live, oracle = (load_model(path, device="cpu", tokenizer=False) for path in vars(folder).values())
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        assert torch.equal(live.model(ids).logits, oracle.model(ids).logits)
    width = live.architecture.d_model
    for path in vars(folder).values():
        bake(Edit.ablation(path, unit(5, width)), path, tmp_path / f"baked-{path.name}")
    packed, plain = (
        load_file(tmp_path / f"baked-{path.name}" / "model.safetensors") for path in vars(folder).values()
    )
    assert set(packed) == set(plain)
    assert all(torch.equal(packed[name], value) for name, value in plain.items())


def test_a_type_that_transposes_its_weights_is_refused(zoo_of: Any, tmp_path: Path) -> None:
    """GPT-2 stores layers as [in, out], and packed ones mean [out, in]; square ones hide it."""
    folder = integer_folder(zoo_of("gpt2"), tmp_path, "gptq_v2", bits=8, group=4)
    with pytest.raises(CheckpointError, match=r"c_proj\.weight' of a gpt2 model is transposed.*bfloat16"):
        architecture_in(Checkpoint.open(folder.packed))


@pytest.mark.parametrize("norm", ["none", "row", "column"])
def test_a_bake_writes_what_it_writes_of_the_plain_weights(
    norm: str, ordered: IntegerFolder, tmp_path: Path
) -> None:
    outs = []
    for folder in (ordered.packed, ordered.plain):
        outs.append(tmp_path / folder.name)
        receipt = bake(Edit.ablation(folder, unit(5, 32), 0.8, norm=norm), folder, outs[-1])
        assert ("the weights were stored in gptq" in " ".join(receipt.notes)) is (folder == ordered.packed)
    packed, plain = (load_file(out / "model.safetensors") for out in outs)
    assert set(packed) == set(plain)
    for name, value in plain.items():
        assert packed[name].dtype == value.dtype
        assert torch.equal(packed[name], value), name
    config = json.loads((outs[0] / "config.json").read_text())
    assert config == json.loads((outs[1] / "config.json").read_text())
    assert "quantization_config" not in config


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("part", [None, "text_config"])
def test_no_file_of_a_bake_says_that_it_is_packed(
    key: str, part: str | None, ordered: IntegerFolder, tmp_path: Path
) -> None:
    """Wherever a release says it."""
    source, out = tmp_path / "packed", tmp_path / "baked"
    shutil.copytree(ordered.packed, source)
    config = json.loads((source / "config.json").read_text())
    said = {key: config.pop("quantization_config")}
    given = {**config, **said} if part is None else {**config, part: {"dtype": "float16", **said}}
    (source / "config.json").write_text(json.dumps(given))
    for name in ("quantize_config.json", "quant_config.json", "notes.json"):
        (source / name).write_text(json.dumps({"bits": 4, "group_size": 16}))
    assert check_supported(given).integers == "gptq"
    bake(Edit.ablation(source, unit(5, 32), 0.8), source, out)
    kept = json.loads((out / "config.json").read_text())
    assert check_supported(kept).method == ""
    assert kept == (config if part is None else {**config, part: {"dtype": "float16"}})
    assert {path.name for path in out.glob("*.json")} & {
        "quantize_config.json",
        "quant_config.json",
        "notes.json",
    } == {"notes.json"}


def test_shards_and_their_index_lose_the_packed_tensors(ordered: IntegerFolder, tmp_path: Path) -> None:
    state = load_file(ordered.packed / "model.safetensors")
    source = tmp_path / "sharded"
    source.mkdir()
    names = sorted(state)
    shards = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(shards.values()):
        save_file({n: state[n] for n in names if shards[n] == shard}, source / shard)
    size = sum(value.nbytes for value in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": shards}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    (source / "config.json").write_bytes((ordered.packed / "config.json").read_bytes())
    edit = Edit.ablation(source, unit(5, 32))
    bake(edit, source, tmp_path / "baked")
    baked = Checkpoint.open(tmp_path / "baked")
    assert set(baked.tensors) == set(load_file(ordered.plain / "model.safetensors"))
    assert baked.index is not None
    assert set(baked.index["weight_map"]) == set(baked.tensors)
    stored = sum(entry.end - entry.start for entry in baked.tensors.values())
    assert baked.index["metadata"]["total_size"] == stored


def test_verify_and_compare_take_the_packed_base_for_the_base(ordered: IntegerFolder, tmp_path: Path) -> None:
    edit = Edit.ablation(ordered.packed, unit(5, 32))
    bake(edit, ordered.packed, tmp_path / "baked")
    bake(Edit.ablation(ordered.packed, unit(6, 32)), ordered.packed, tmp_path / "other")
    status = {
        name: verify(tmp_path / name, edit, base=ordered.packed, run=False).status
        for name in ("baked", "other")
    }
    assert status == {"baked": "carried", "other": "not_carried"}
    assert verify(ordered.packed, edit, base=ordered.packed, run=False).status == "not_carried"
    result, oracle = (
        compare(folder, tmp_path / "baked").to_json() for folder in (ordered.packed, ordered.plain)
    )
    # The Edits name their base.
    for values in (result, oracle):
        del values["a"], values["edit"]["sha256"]
    assert result == oracle
    assert all(tensor["writes"] for tensor in result["differing"])


def test_memory_and_disk_are_those_of_the_plain_weights(ordered: IntegerFolder, tmp_path: Path) -> None:
    speeds = Speeds("cpu", *(CallTime(1, 1),) * 5, 1e-9, 1e-9, 1e-9)
    packed, plain = Checkpoint.open(ordered.packed), Checkpoint.open(ordered.plain)
    for dtype in ("float32", "bfloat16"):
        assert loaded_bytes(packed, dtype, "cpu") == loaded_bytes(plain, dtype, "cpu")
    result, oracle = (plan(folder, device="cpu", speeds=speeds) for folder in (packed, plain))
    # But for the header, which lists four tensors for each.
    assert result.disk_bytes == pytest.approx(oracle.disk_bytes, abs=10_000)
    assert result.writers == oracle.writers


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"qzeros": None}, "qzeros' missing"),
        ({"scales": None}, "scales' missing"),
        ({"scales": torch.ones(7, 32, dtype=torch.float16)}, r"scales' F16 \[7, 32\]"),
        ({"qweight": torch.zeros(5, 32, dtype=torch.int32)}, r"qweight' I32 \[5, 32\]"),
        ({"qweight": torch.zeros(6, 32)}, r"qweight' F32"),
    ],
)
def test_tensors_that_do_not_fit_their_layout_are_named(
    changes: dict[str, torch.Tensor | None], fault: str, ordered: IntegerFolder, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=rf"down_proj.weight' of .*stored as gptq.*{fault}.*bfloat16"):
        architecture_in(Checkpoint.open(change(ordered.packed, tmp_path / "changed", **changes)))


def test_groups_that_are_not_there_and_scales_of_nan_are_damage(
    ordered: IntegerFolder, tmp_path: Path
) -> None:
    for number, (changes, fault) in enumerate(
        [
            ({"g_idx": torch.full((48,), 6, dtype=torch.int32)}, "names the groups 6 to 6 of 6"),
            ({"scales": torch.full((6, 32), torch.nan, dtype=torch.float16)}, "scales of NaN"),
        ]
    ):
        folder = change(ordered.packed, tmp_path / str(number), **changes)
        with pytest.raises(CheckpointError, match=f"down_proj.weight' is damaged: .*{fault}.*download"):
            bake(Edit.ablation(folder, unit(5, 32)), folder, tmp_path / f"out{number}")


def test_scales_of_activations_are_refused(tmp_path: Path) -> None:
    folder = integer_folder(tiny_chat.folder(taught_=False), tmp_path / "in", "awq")
    state = load_file(folder.packed / "model.safetensors")
    state["model.layers.0.mlp.act.scales"] = torch.ones(48, dtype=torch.float16)
    save_file(state, folder.packed / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"act\.scales' .*scales an activation.*bfloat16"):
        architecture_in(Checkpoint.open(folder.packed))


@pytest.mark.parametrize(
    ("quantization", "named"),
    [
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "layout 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}, "is_marlin_format"),
        ({"quant_method": "gptq", "bits": 5}, "5 bits"),
        ({"quant_method": "gptq", "bits": 4, "pack_dtype": "int16"}, "pack_dtype"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "layout 'gemv'"),
        ({"quant_method": "awq", "w_bit": 4, "backend": "llm-awq"}, "layout 'llm-awq'"),
        ({"quant_method": "awq", "bits": 8}, "8 bits"),
    ],
)
def test_other_layouts_are_refused_by_name(quantization: dict[str, object], named: str) -> None:
    with pytest.raises(ArchitectureError, match=f"(?s){named}.*cannot be edited.*bfloat16"):
        check_supported({"quantization_config": quantization})
