"""Stored forms, shapes and values that are no weights are refused by name, with the remedy."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from packed_weights import (
    BLOCK,
    E4M3,
    E8M0,
    EXPERTS,
    NAME,
    SCALE,
    every_byte,
    folder,
    fp8_blocks,
    mxfp4_parts,
    opened,
    same,
    stored_as,
)

from vectomy.checkpoint.quantization import (
    check_supported,
    decode,
    encode,
    locate,
    requantize,
)
from vectomy.core.errors import ArchitectureError, CheckpointError

TIER = "unit"

REMEDY = "bfloat16 release.*dequantize"

# Refusals

GROUP = {"type": "float", "num_bits": 8, "strategy": "channel", "symmetric": True}


def compressed(**changes: object) -> dict:
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"g0": {"weights": GROUP | changes}},
    }


@pytest.mark.parametrize(
    ("quantization", "block"),
    [
        (BLOCK, (128, 128)),
        ({"quant_method": "fp8"}, (128, 128)),
        ({"quant_method": "fp8", "weight_block_size": None}, (128, 128)),
        ({"quant_method": "fp8", "weight_block_size": [64, 256]}, (64, 256)),
        ({"quant_method": "mxfp8"}, (1, 32)),
        ({"quant_method": "mxfp4", "modules_to_not_convert": []}, (128, 128)),
        ({"quant_method": "fbgemm_fp8"}, (128, 128)),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, (128, 128)),
        (compressed(), (128, 128)),
        (compressed(strategy="tensor"), (128, 128)),
        (compressed(strategy="block", block_structure="64x32"), (64, 32)),
        (compressed(strategy="block", block_structure=[128, 128]), (128, 128)),
    ],
)
def test_known_methods_are_taken(quantization: dict, block: tuple[int, int]) -> None:
    for config in (
        {"quantization_config": quantization},
        {"text_config": {"quantization_config": quantization}},
    ):
        scheme = check_supported(config)
        assert (scheme.method, scheme.block) == (quantization["quant_method"], block)
    assert check_supported({"model_type": "llama", "text_config": None}).method == ""


@pytest.mark.parametrize(
    ("quantization", "names"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 6}, "gptq"),
        ({"quant_method": "awq", "version": "gemv"}, "awq"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"quant_method": "something-new"}, "something-new"),
        ({"quant_method": ["fp8"]}, "fp8"),
        ({}, ""),
        ({"bits": 3}, "None"),
        ("fp8", "not an object"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt.*NVFP4"),
        ({"quant_method": "modelopt"}, "modelopt"),
        (compressed(num_bits=4), "compressed-tensors.*g0.*4 bits"),
        (compressed(type="int"), "int weights"),
        (compressed(symmetric=False), "g0"),
        (compressed(strategy="group"), "strategy 'group'"),
        (compressed() | {"format": "pack-quantized"}, "pack-quantized"),
        (compressed() | {"config_groups": {"FP8_DYNAMIC": ["Linear"]}}, "FP8_DYNAMIC"),
        (compressed() | {"config_groups": None}, "config_groups"),
        (compressed() | {"transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
        (compressed() | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
    ],
)
def test_other_methods_are_refused_by_name_with_the_remedy(quantization: object, names: str) -> None:
    if not quantization:
        assert check_supported({"quantization_config": quantization}).method == ""
        return
    with pytest.raises(ArchitectureError, match=f"(?s){names}.*{REMEDY}"):
        check_supported({"quantization_config": quantization})


@pytest.mark.parametrize("block", [[128], [0, 128], [128, -1], "128", [1.5, 2], [True, 128], {"a": 1}])
def test_a_block_that_is_none_is_refused(block: object) -> None:
    with pytest.raises(ArchitectureError, match="two positive integers"):
        check_supported({"quantization_config": {"quant_method": "fp8", "weight_block_size": block}})


@pytest.mark.parametrize(
    ("dtype", "beside", "method"),
    [
        (torch.uint8, {"weight.absmax": torch.float32, "weight.quant_map": torch.float32}, "bitsandbytes"),
        (torch.int8, {"SCB": torch.float32}, "bitsandbytes"),
        (None, {"qweight": torch.int32, "scales": torch.float16}, "GPTQ"),
        (None, {"weight_packed": torch.int32, "weight_scale": torch.bfloat16}, "packed"),
        (torch.uint8, {"weight_scale": E4M3, "weight_scale_2": torch.float32}, "NVFP4"),
        (E4M3, {"weight_scale": torch.float32, "weight_zero_point": E4M3}, "asymmetric"),
        (torch.int8, {"scale": E8M0}, "fp8"),
        (torch.int32, {}, "fp8"),
    ],
)
def test_other_tensors_are_refused_by_name_with_the_remedy(
    dtype: torch.dtype | None, beside: dict[str, torch.dtype], method: str, tmp_path: Path
) -> None:
    module = NAME.removesuffix(".weight")
    tensors = {f"{module}.{name}": torch.zeros(8, 8).to(kind) for name, kind in beside.items()}
    if dtype is not None:
        tensors[NAME] = torch.zeros(8, 8).to(dtype)
    with pytest.raises(CheckpointError, match=f"(?s){NAME}.*{method}.*{REMEDY}"):
        locate(folder(tmp_path, tensors, BLOCK), NAME)


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((256, 512), (4, 2)),
        ((256, 512), (2, 5)),
        ((256, 512), (512, 1)),
        ((256, 512), (1, 512)),
        ((256, 512), (512,)),
        ((256, 512), (2, 4, 1)),
        ((256, 512), (0,)),
        ((256, 512), (2,)),
        ((256,), (1,)),
        ((3, 256, 512), (1,)),
        ((3, 256, 512), (2, 4)),
        ((3, 256, 512), (1, 3, 1)),
        ((3, 256, 512), (4, 2, 4)),
        ((3, 256, 512), (3, 256)),
        ((2, 2, 128, 128), (1,)),
        ((0, 8), (1,)),
    ],
)
def test_scales_of_a_wrong_shape_are_refused(
    shape: tuple[int, ...], scale: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = {NAME: torch.zeros(shape).to(E4M3), SCALE: torch.ones(scale)}
    with pytest.raises(CheckpointError, match=f"{NAME}.*{SCALE}.*block"):
        locate(folder(tmp_path, tensors, BLOCK), NAME)


def test_an_enormous_block_costs_no_memory(tmp_path: Path) -> None:
    config = {"quant_method": "fp8", "weight_block_size": [10**15, 128]}
    tensors = {NAME: every_byte((8, 256)), SCALE: torch.ones(1, 2)}
    encoded, parts = opened(folder(tmp_path, tensors, config), NAME)
    assert torch.equal(decode(encoded, parts), tensors[NAME].float())
    assert same(encode(encoded, decode(encoded, parts), parts).parts, parts)


def test_missing_and_doubled_scales_are_refused(tmp_path: Path) -> None:
    values = every_byte((8, 8))
    with pytest.raises(CheckpointError, match=f"{NAME}.*needs one tensor of scales.*none"):
        locate(folder(tmp_path / "a", {NAME: values}, BLOCK), NAME)
    with pytest.raises(CheckpointError, match=r"weight_scale_inv.*weight_scale"):
        locate(
            folder(
                tmp_path / "b", {NAME: values, SCALE: torch.ones(1), NAME + "_scale": torch.ones(1)}, BLOCK
            ),
            NAME,
        )
    with pytest.raises(CheckpointError, match="BF16 but has scales"):
        locate(folder(tmp_path / "c", {NAME: torch.ones(8, 8).bfloat16(), SCALE: torch.ones(1)}, BLOCK), NAME)
    with pytest.raises(CheckpointError, match=r"not in.*save the model again"):
        locate(folder(tmp_path / "d", {"x": torch.ones(1)}), NAME)


@pytest.mark.parametrize(
    ("blocks", "scales", "dtype"),
    [
        ((2, 8, 3, 15), (2, 8, 3), torch.uint8),
        ((2, 8, 3, 16), (2, 8, 2), torch.uint8),
        ((8, 16), (8,), torch.uint8),
        ((2, 0, 3, 16), (2, 0, 3), torch.uint8),
        ((2, 8, 3, 16), (2, 8, 3), torch.int8),
        ((2, 8, 3, 16), None, torch.uint8),
    ],
)
def test_mxfp4_parts_of_a_wrong_shape_are_refused(
    blocks: tuple[int, ...], scales: tuple[int, ...] | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = {f"{EXPERTS}_blocks": torch.zeros(blocks, dtype=dtype)}
    if scales is not None:
        tensors[f"{EXPERTS}_scales"] = torch.zeros(scales, dtype=torch.uint8)
    with pytest.raises(CheckpointError, match=f"{EXPERTS}.*download"):
        locate(folder(tmp_path, tensors, {"quant_method": "mxfp4"}), EXPERTS)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.5, 0.0])
def test_scales_that_are_no_scales_are_refused(bad: float, tmp_path: Path) -> None:
    values, scale = fp8_blocks(256, 256)
    scale[1, 0] = bad
    encoded, parts = opened(folder(tmp_path, {NAME: values, SCALE: scale}, BLOCK), NAME)
    with pytest.raises(CheckpointError, match=f"{NAME}.*fp8-block.*damaged"):
        decode(encoded, parts)
    with pytest.raises(CheckpointError, match="damaged"):
        encode(encoded, torch.zeros(256, 256), parts)


@pytest.mark.parametrize("kind", ["values", "exponent", "overflow", "float32"])
def test_values_that_are_no_numbers_are_refused(kind: str, tmp_path: Path) -> None:
    if kind in ("values", "float32"):
        values, scale = fp8_blocks(256, 256)
        if kind == "values":
            values.view(torch.uint8)[3, 3] = 0x7F
        else:
            scale[0, 0] = 3e38
        name, tensors, config = NAME, {NAME: values, SCALE: scale}, BLOCK
    else:
        name, tensors, config = EXPERTS, mxfp4_parts(2, 8, 2), {"quant_method": "mxfp4"}
        tensors[f"{EXPERTS}_scales"][1, 2, 1] = 255 if kind == "exponent" else 254
        tensors[f"{EXPERTS}_blocks"][1, 2, 1] = 0x77
    encoded, parts = opened(folder(tmp_path, tensors, config), name)
    with pytest.raises(CheckpointError, match=f"{name}.*damaged"):
        decode(encoded, parts)


@pytest.mark.parametrize("kind", ["plain-float16", "block-f32", "mxfp4"])
def test_an_edit_that_gives_no_numbers_is_refused(kind: str, tmp_path: Path) -> None:
    name, tensors, config = stored_as(kind)
    encoded, parts = opened(folder(tmp_path, tensors, config), name)
    for bad in (math.nan, math.inf):
        with pytest.raises(CheckpointError, match=f"{name}.*NaN or infinite"):
            requantize(encoded, parts, lambda W, bad=bad: W + bad)
    with pytest.raises(CheckpointError, match="into"):
        requantize(encoded, parts, lambda W: W[:1])
    with pytest.raises(CheckpointError, match="shape"):
        encode(encoded, torch.zeros(1, 1), parts)
    if kind == "plain-float16":
        with pytest.raises(CheckpointError, match="too large"):
            requantize(encoded, parts, lambda W: W * 1e6)


@pytest.mark.parametrize("kind", ["plain-bfloat16", "block-f32", "mxfp4"])
def test_parts_that_are_not_the_located_ones_are_refused(kind: str, tmp_path: Path) -> None:
    name, tensors, config = stored_as(kind)
    encoded, parts = opened(folder(tmp_path, tensors, config), name)
    first = encoded.parts[0]
    for wrong in ({}, parts | {first: parts[first][:1]}, parts | {first: parts[first].to(torch.int16)}):
        with pytest.raises(CheckpointError, match=name):
            decode(encoded, wrong)
    if kind != "plain-bfloat16":
        with pytest.raises(CheckpointError, match="scales"):
            decode(encoded, parts | {encoded.parts[1]: torch.ones(1)})
    with pytest.raises(CheckpointError):
        decode(replace(encoded, shape=(*encoded.shape[:-1], 7)), parts)
