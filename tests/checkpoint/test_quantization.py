"""A stored weight decodes as transformers decodes it, keeps its bytes where an edit leaves it, and
keeps the edit where not.

Oracles: transformers' own dequantisation, torch's float8 conversion, and brute force over the
sixteen numbers of FP4.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tiny import orthonormal, unit
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import FP4_VALUES, convert_moe_packed_tensors

from vectomy.checkpoint import Change, Checkpoint, read_stored, rewrite
from vectomy.checkpoint.quantization import (
    PackedWeight,
    check_supported,
    companions,
    decode,
    encode,
    fp8,
    locate,
    mxfp4,
    requantize,
    rounding,
)
from vectomy.checkpoint.quantization.layout import scale_names
from vectomy.core import linalg
from vectomy.core.errors import ArchitectureError, CheckpointError

TIER = "unit"

E4M3, E5M2, E8M0 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu
NAME, EXPERTS = "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.experts.down_proj"
SCALE = NAME + "_scale_inv"
BLOCK = {"quant_method": "fp8", "weight_block_size": [128, 128]}
REMEDY = "bfloat16 release.*dequantize"


def folder(path: Path, tensors: dict[str, Tensor], quantization: object = None) -> Checkpoint:
    path.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()},
        path / "model.safetensors",
    )
    config = {"model_type": "llama"} | ({} if quantization is None else {"quantization_config": quantization})
    (path / "config.json").write_text(json.dumps(config))
    return Checkpoint.open(path)


def opened(checkpoint: Checkpoint, name: str) -> tuple[PackedWeight, dict[str, Tensor]]:
    encoded = locate(checkpoint, name)
    return encoded, {part: read_stored(checkpoint, part) for part in encoded.parts}


def bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and torch.equal(bits(a[k]), bits(b[k]))
        for k in a
    )


def every_byte(
    shape: tuple[int, ...], damaged: tuple[int, ...] = (0x7F, 0xFF), kind: torch.dtype = E4M3
) -> Tensor:
    """All codes but the damaged ones: zeros of both signs, subnormals, the largest."""
    codes = torch.tensor([code for code in range(256) if code not in damaged], dtype=torch.uint8)
    return (
        codes[torch.arange(math.prod(shape)) % len(codes)][torch.randperm(math.prod(shape))]
        .reshape(shape)
        .view(kind)
    )


def fp8_blocks(rows: int, columns: int, kind: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    grid = (-(-rows // 128), -(-columns // 128))
    scale = torch.rand(grid) * 0.01 + 1e-4
    return every_byte((rows, columns)), scale.log2().round().exp2().to(kind) if kind == E8M0 else scale.to(
        kind
    )


def mxfp4_parts(experts: int, rows: int, groups: int) -> dict[str, Tensor]:
    return {
        f"{EXPERTS}_blocks": torch.randint(0, 256, (experts, rows, groups, 16), dtype=torch.uint8),
        f"{EXPERTS}_scales": torch.randint(110, 126, (experts, rows, groups), dtype=torch.uint8),
    }


INFINITE = (0x7C, 0x7D, 0x7E, 0x7F, 0xFC, 0xFD, 0xFE, 0xFF)


def stored_as(kind: str) -> tuple[str, dict[str, Tensor], object]:
    """Name, tensors and quantization_config of one weight in each known form; no size divides 128."""
    values = every_byte((200, 320))
    three = every_byte((3, 160, 256))
    if kind.startswith("plain"):
        return NAME, {NAME: torch.randn(40, 24).to(getattr(torch, kind.removeprefix("plain-")))}, None
    if kind.startswith("block"):
        values, scale = fp8_blocks(
            200,
            320,
            {"f32": torch.float32, "bf16": torch.bfloat16, "e8m0": E8M0}[kind.removeprefix("block-")],
        )
        return NAME, {NAME: values, SCALE: scale}, BLOCK
    channel = torch.rand(200, 1) * 0.01 + 1e-4
    tensors = {
        "tensor-scalar": {SCALE: torch.tensor(0.003)},
        "tensor-one": {NAME + "_scale": torch.tensor([0.003])},
        "tensor-e5m2": {NAME + "_scale": torch.tensor([1e-6])},
        "channel": {NAME + "_scale": channel},
        "channel-bf16": {NAME + "_scale": channel.bfloat16()},
        "channel-f64": {NAME + "_scale": channel.double() * 1.0000000001},
        "channel-vector": {NAME + "_scale": channel[:, 0]},
        "modelopt-block": {NAME + "_scale": torch.rand(2, 1, 3, 1) * 0.01 + 1e-4},
        "mxfp8": {SCALE: torch.randint(110, 126, (200, 10), dtype=torch.uint8)},
        "v4": {
            NAME.replace("weight", "scale"): torch.randint(110, 126, (2, 3), dtype=torch.uint8).view(E8M0)
        },
        "experts-block": {EXPERTS + "_scale_inv": torch.rand(3, 2, 2) * 0.01 + 1e-4},
        "experts-tensor": {EXPERTS + "_scale_inv": torch.rand(3, 1, 1) * 0.01 + 1e-4},
        "experts-vector": {EXPERTS + "_scale": torch.rand(3) * 0.01 + 1e-4},
        "experts-channel": {EXPERTS + "_scale": torch.rand(3, 160, 1) * 0.01 + 1e-4},
        "experts-halves": {EXPERTS + "_scale_inv": torch.rand(3, 2, 1) * 0.01 + 1e-4},
    }
    if kind == "mxfp4":
        return EXPERTS, mxfp4_parts(3, 40, 5), {"quant_method": "mxfp4"}
    if kind == "experts-halves":
        three = three[:, :96].contiguous()
    if kind == "tensor-e5m2":
        values = every_byte((200, 320), INFINITE, E5M2)
    name = EXPERTS if kind.startswith("experts") else NAME
    config = {"quant_method": "mxfp8"} if kind == "mxfp8" else BLOCK
    return name, {name: three if name == EXPERTS else values, **tensors[kind]}, config


PLAIN = [f"plain-{dtype}" for dtype in ("float64", "float32", "float16", "bfloat16")]
BLOCKS = ["block-f32", "block-bf16", "block-e8m0"]
OTHERS = [
    "tensor-scalar",
    "tensor-one",
    "tensor-e5m2",
    "channel",
    "channel-bf16",
    "channel-f64",
    "channel-vector",
    "modelopt-block",
    "mxfp8",
    "v4",
    "experts-block",
    "experts-tensor",
    "experts-vector",
    "experts-channel",
    "experts-halves",
    "mxfp4",
]
QUANTISED = BLOCKS + OTHERS


# Rounding to a grid


@pytest.mark.parametrize(
    ("grid", "kind"), [(rounding.E4M3, E4M3), (rounding.E5M2, E5M2)], ids=["e4m3", "e5m2"]
)
def test_nearest_is_torchs_float8(grid: rounding.Grid, kind: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(kind).float()
    codes = codes[codes.isfinite()].sort().values
    middles = (codes[1:] + codes[:-1]) / 2
    random = torch.randn(200_000) * torch.exp2(torch.randint(-20, 9, (200_000,)))
    values = torch.cat(
        [codes, middles, middles.nextafter(torch.tensor(9e9)), middles.nextafter(torch.tensor(-9e9)), random]
    )
    values = values[values.abs() <= grid.largest]
    assert torch.equal(rounding.nearest(values, grid), values.to(kind).float())
    far = torch.tensor([1e30, -1e30, grid.largest * 1.01])
    assert rounding.nearest(far, grid).tolist() == [grid.largest, -grid.largest, grid.largest]


def test_nearest_fp4_is_brute_force_with_ties_to_the_even_code() -> None:
    table = torch.tensor(FP4_VALUES[:8])
    values = torch.cat([torch.linspace(0, 7, 7 * 64 + 1), torch.rand(1000) * 7])
    distance = (values[:, None] - table).abs()
    nearest = distance == distance.amin(1, keepdim=True)
    even = nearest & (torch.arange(8) % 2 == 0)
    expected = table[torch.where(nearest.sum(1, keepdim=True) > 1, even, nearest).int().argmax(1)]
    assert torch.equal(rounding.nearest(values, rounding.E2M1), expected)
    assert torch.equal(rounding.nearest(-values, rounding.E2M1), -expected)


# What a weight decodes to


@pytest.mark.parametrize("kind", QUANTISED)
def test_decoding_is_values_times_scales_of_the_stored_shape(kind: str, tmp_path: Path) -> None:
    name, tensors, config = stored_as(kind)
    encoded, parts = opened(folder(tmp_path, tensors, config), name)
    W = decode(encoded, parts)
    assert W.shape == encoded.shape
    assert W.dtype == torch.float32
    if kind == "mxfp4":
        oracle = convert_moe_packed_tensors(*tensors.values(), dtype=torch.float32).mT
    else:
        values, scale = tensors[name].float(), next(v for k, v in tensors.items() if k != name)
        scale = (scale.float() - 127).exp2() if scale.dtype == torch.uint8 else scale.float()
        if kind == "modelopt-block":
            scale = scale[:, 0, :, 0]
        if scale.numel() == 1:
            scale = scale.reshape(1, 1)
        if kind.endswith("vector"):
            scale = scale[:, None, None] if name == EXPERTS else scale[:, None]
        rows, columns = values.shape[-2:]
        tall = 128 if scale.shape[-2] == 2 and kind != "experts-halves" else -(-rows // scale.shape[-2])
        wide = {"mxfp8": 32}.get(kind, 128 if scale.shape[-1] > 1 else columns)
        oracle = values * scale[..., torch.arange(rows) // tall, :][..., torch.arange(columns) // wide]
    assert torch.equal(W, oracle)


@pytest.mark.parametrize("kind", ["block", "experts", "mxfp8"])
def test_fp8_decodes_as_transformers_dequantises(kind: str, tmp_path: Path) -> None:
    # Its dequantisation needs whole blocks.
    if kind == "block":
        name, tensors = NAME, dict(zip((NAME, SCALE), fp8_blocks(256, 384), strict=True))
    elif kind == "experts":
        name = EXPERTS
        tensors = {EXPERTS: every_byte((3, 256, 128)), EXPERTS + "_scale_inv": torch.rand(3, 2, 1) * 0.01}
    else:
        name, tensors, _ = stored_as("mxfp8")
    checkpoint = folder(tmp_path, tensors, {"quant_method": "mxfp8"} if kind == "mxfp8" else BLOCK)
    oracle = Fp8Dequantize(SimpleNamespace())._dequantize_one(*tensors.values(), output_dtype=torch.float32)
    assert torch.equal(decode(*opened(checkpoint, name)), oracle)


def test_mxfp4_rows_are_the_output_axis_and_transformers_transposes_them(tmp_path: Path) -> None:
    # A square matrix, so that shapes hide nothing.
    parts = mxfp4_parts(2, 64, 2)
    W = decode(*opened(folder(tmp_path, parts, {"quant_method": "mxfp4"}), EXPERTS))
    loaded = convert_moe_packed_tensors(*parts.values(), dtype=torch.float32)
    assert torch.equal(W.mT, loaded)
    assert not torch.equal(W, loaded)
    # GptOssExperts computes x @ loaded, so loaded is (input, output) and W is (output, input).
    x = torch.randn(64)
    torch.testing.assert_close(W[1] @ x, x @ loaded[1])


def test_every_exponent_of_a_scale_is_read_and_written() -> None:
    stored = torch.arange(255, dtype=torch.uint8)
    scales = fp8.read_scales(stored)
    assert scales.tolist() == [2.0 ** (byte - 127) for byte in range(255)]
    assert torch.equal(fp8.write_scales(scales, stored), stored)
    assert fp8.read_scales(stored[-1:] + 1).isinf().all()


def test_a_square_grid_of_scales_is_not_read_transposed(tmp_path: Path) -> None:
    values, scale = fp8_blocks(256, 256)
    right = decode(*opened(folder(tmp_path / "a", {NAME: values, SCALE: scale}, BLOCK), NAME))
    wrong = decode(*opened(folder(tmp_path / "b", {NAME: values, SCALE: scale.T}, BLOCK), NAME))
    assert torch.equal(right[:128, 128:], values.float()[:128, 128:] * scale[0, 1])
    assert not torch.equal(right, wrong)


def test_a_cut_off_block_is_128_wide_and_not_an_equal_share(tmp_path: Path) -> None:
    # DeepSeek-V3's kv_a_proj_with_mqa has 576 rows and 5 blocks; shares of 576 / 5 would be wrong.
    values, scale = fp8_blocks(200, 128)
    W = decode(*opened(folder(tmp_path, {NAME: values, SCALE: scale}, BLOCK), NAME))
    assert torch.equal(W[127], values[127].float() * scale[0, 0])
    assert torch.equal(W[128], values[128].float() * scale[1, 0])


# Bytes that stay


@pytest.mark.parametrize("kind", PLAIN + QUANTISED)
def test_decode_then_encode_is_the_same_bytes(kind: str, tmp_path: Path) -> None:
    name, tensors, config = stored_as(kind)
    encoded, parts = opened(folder(tmp_path, tensors, config), name)
    before = {part: value.clone() for part, value in parts.items()}
    for vectors in ("output", "input"):
        result = encode(encoded, decode(encoded, parts), parts, vectors=vectors)
        assert same(result.parts, tensors)
        assert (result.error, result.lost) == (0, 0)
    assert same(parts, before)


def test_plain_nan_and_negative_zero_keep_their_bits(tmp_path: Path) -> None:
    raw = torch.tensor([0x7FC1, 0xFF81, 0x8000, 0x0000, 0x7F80, 0x0001], dtype=torch.uint16).view(
        torch.bfloat16
    )
    encoded, parts = opened(folder(tmp_path, {NAME: raw.reshape(2, 3)}), NAME)
    assert same(encode(encoded, decode(encoded, parts), parts).parts, parts)


@pytest.mark.parametrize("shape", [(), (7,), (0,), (0, 4), (2, 3, 4)], ids=str)
def test_plain_tensors_of_any_shape_are_encoded(shape: tuple[int, ...], tmp_path: Path) -> None:
    encoded, parts = opened(folder(tmp_path, {NAME: torch.randn(shape).bfloat16(), "x": torch.ones(1)}), NAME)
    new = decode(encoded, parts) * 2
    assert same(encode(encoded, new, parts).parts, {NAME: parts[NAME] * 2})


@pytest.mark.parametrize("kind", QUANTISED)
def test_only_the_blocks_that_an_edit_touches_change(kind: str, tmp_path: Path) -> None:
    name, tensors, config = stored_as(kind)
    encoded, parts = opened(folder(tmp_path, tensors, config), name)
    W = decode(encoded, parts)
    new = W.clone()
    matrix = new[1] if new.ndim == 3 else new
    tall, wide = encoded.block
    # Large enough that the block gets another scale.
    matrix[:tall, :wide] *= 40
    result = encode(encoded, new, parts)
    again = decode(encoded, result.parts)
    touched = torch.zeros_like(W, dtype=torch.bool)
    (touched[1] if new.ndim == 3 else touched)[:tall, :wide] = True
    assert torch.equal(again[~touched], W[~touched])
    assert not torch.equal(again[touched], W[touched])
    assert result.error < (0.2 if kind == "mxfp4" else 0.05)
    if encoded.encoding != "mxfp4":
        stays = tensors[name].view(torch.uint8)[~touched]
        assert torch.equal(result.parts[name].view(torch.uint8)[~touched], stays)
    changed = bits(result.parts[encoded.parts[1]]) != bits(parts[encoded.parts[1]])
    size = parts[encoded.parts[1]].element_size()
    assert changed.reshape(-1, size).any(1).sum() <= max(
        1, -(-tall // 1) if encoded.encoding == "fp8-channel" else 1
    )


def test_a_kept_scale_keeps_its_bytes_and_so_do_values_that_did_not_move(tmp_path: Path) -> None:
    values, scale = fp8_blocks(256, 256)
    encoded, parts = opened(folder(tmp_path, {NAME: values, SCALE: scale}, BLOCK), NAME)
    new = decode(encoded, parts)
    new[5, 7] *= 0.4
    result = encode(encoded, new, parts)
    assert torch.equal(result.parts[SCALE], scale)
    moved = (result.parts[NAME].view(torch.uint8) != values.view(torch.uint8)).nonzero().tolist()
    assert moved == [[5, 7]]


# Scales that move


@pytest.mark.parametrize("kind", QUANTISED)
def test_values_that_stay_in_a_block_that_gets_another_scale_keep_their_size(
    kind: str, tmp_path: Path
) -> None:
    name, tensors, config = stored_as(kind)
    encoded, parts = opened(folder(tmp_path, tensors, config), name)
    new = decode(encoded, parts)
    new.reshape(-1)[0] = 6 * new.abs().amax()
    result = encode(encoded, new, parts)
    assert not torch.equal(bits(result.parts[encoded.parts[1]]), bits(parts[encoded.parts[1]]))
    wanted, got = (W.reshape(-1)[1:] for W in (new, decode(encoded, result.parts)))
    assert (got - wanted).norm() < {"mxfp4": 0.3, "tensor-e5m2": 0.08}.get(kind, 0.04) * wanted.norm()
    assert float(decode(encoded, result.parts).reshape(-1)[0]) == pytest.approx(
        float(new.reshape(-1)[0]), rel=0.2
    )


@pytest.mark.parametrize("factor", [1e-5, 30.0])
@pytest.mark.parametrize("kind", QUANTISED)
def test_a_weight_that_grows_or_shrinks_gets_scales_that_fit(
    kind: str, factor: float, tmp_path: Path
) -> None:
    name, tensors, config = stored_as(kind)
    encoded, parts = opened(folder(tmp_path, tensors, config), name)
    new = decode(encoded, parts) * factor
    result = encode(encoded, new, parts)
    stored = decode(encoded, result.parts)
    assert result.error == pytest.approx(float((stored - new).norm() / new.norm()), rel=1e-3)
    # Half a step is a sixteenth, an eighth, a quarter of the value; a block's smallest values are
    # coarser.
    assert result.error < {"mxfp4": 0.2, "tensor-e5m2": 0.08}.get(kind, 0.04)
    kept = result.parts[encoded.parts[1]]
    assert kept.dtype == parts[encoded.parts[1]].dtype
    assert kept.shape == parts[encoded.parts[1]].shape


def test_scales_that_are_powers_of_two_stay_powers_of_two(tmp_path: Path) -> None:
    # DeepSeek-V3.1 stores such scales as float32 (scale_fmt ue8m0).
    values, scale = fp8_blocks(256, 256)
    scale = scale.log2().round().exp2()
    encoded, parts = opened(folder(tmp_path, {NAME: values, SCALE: scale}, BLOCK), NAME)
    new = encode(encoded, decode(encoded, parts) * 5, parts).parts[SCALE]
    assert not torch.equal(new, scale)
    assert torch.equal(new.log2().round().exp2(), new)


def test_a_block_of_zeros_can_become_something_and_something_zero(tmp_path: Path) -> None:
    values, scale = fp8_blocks(256, 128)
    values.view(torch.uint8)[:128] = 0
    scale[0] = 0
    encoded, parts = opened(folder(tmp_path, {NAME: values, SCALE: scale}, BLOCK), NAME)
    W = decode(encoded, parts)
    assert same(encode(encoded, W, parts).parts, parts)
    new = W.flip(0)
    result = encode(encoded, new, parts)
    assert result.error < 0.04
    assert torch.equal(decode(encoded, result.parts)[128:], torch.zeros(128, 128))


def test_mxfp4_takes_the_scale_of_least_error() -> None:
    new = torch.randn(64, 5 * 32) * torch.exp2(torch.randint(-9, 9, (64, 5))).repeat_interleave(32, 1)
    held = torch.exp2(torch.randint(-12, 9, (64, 5)))
    peaks = new.reshape(64, 5, 32).abs().amax(-1)
    changed = torch.rand(64, 5) < 0.9
    scales, renewed = mxfp4.new_scales(held, peaks, changed, new)
    assert torch.equal(scales[~changed], held[~changed])
    assert torch.equal(renewed, scales != held)
    table = torch.tensor(FP4_VALUES)

    def error(power: Tensor) -> Tensor:
        grid = table * power[..., None, None]
        return (new.reshape(64, 5, 32, 1) - grid).abs().amin(-1).square().sum(-1)

    best = torch.stack([error(torch.full((64, 5), 2.0**n)) for n in range(-25, 20)]).amin(0)
    torch.testing.assert_close(error(scales)[changed], best[changed])
    # Of two scales that are as good, the one that is there.
    zeros = torch.zeros(64, 5 * 32)
    assert torch.equal(mxfp4.new_scales(held, torch.zeros(64, 5), changed, zeros)[0], held)


# The edit survives


def quantised(W: Tensor, kind: str, path: Path) -> tuple[PackedWeight, dict[str, Tensor]]:
    """W as the format's makers would store it, through encode from a stored matrix of zeros."""
    rows, columns = W.shape
    if kind == "mxfp4":
        parts = {
            f"{EXPERTS}_blocks": torch.zeros(1, rows, columns // 32, 16, dtype=torch.uint8),
            f"{EXPERTS}_scales": torch.full((1, rows, columns // 32), 127, dtype=torch.uint8),
        }
        encoded, parts = opened(folder(path, parts, {"quant_method": "mxfp4"}), EXPERTS)
        return encoded, encode(encoded, W[None], parts).parts
    grid = {"block": (rows // 128, columns // 128), "channel": (rows, 1), "tensor": (1,)}[kind]
    parts = {NAME: torch.zeros(rows, columns).to(E4M3), SCALE: torch.zeros(grid)}
    encoded, parts = opened(folder(path, parts, BLOCK), NAME)
    return encoded, encode(encoded, W, parts).parts


@pytest.mark.parametrize("aligned", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["block", "channel", "tensor", "mxfp4"])
def test_a_removed_direction_stays_removed_after_rounding(kind: str, aligned: float, tmp_path: Path) -> None:
    d, n = 512, 256
    r = unit(width=d)
    W = torch.randn(d, n) + aligned * math.sqrt(d) * r[:, None] * torch.randn(n)
    encoded, parts = quantised(W, kind, tmp_path)
    old = decode(encoded, parts).reshape(d, n)
    new = linalg.edit_matrix(old, r[None], torch.ones(1))
    result = encode(encoded, new.reshape(encoded.shape), parts)
    stored = decode(encoded, result.parts).reshape(d, n)
    left = float((r @ stored).norm() / (r @ old).norm())
    assert left < 0.02
    assert result.lost == pytest.approx(left, rel=0.05)
    assert result.error == pytest.approx(float((stored - new).norm() / new.norm()), rel=1e-3)
    # No more than the error that the format makes by itself.
    assert result.error < {"mxfp4": 0.12}.get(kind, 0.03)


def test_a_block_of_zeros_without_a_scale_does_not_disturb_its_columns(tmp_path: Path) -> None:
    W = torch.randn(512, 256)
    W[:128] = 0
    encoded, parts = quantised(W, "block", tmp_path)
    assert bool((parts[SCALE][0] == 0).all())
    old, r = decode(encoded, parts), linalg.normalise(unit(width=512) * (torch.arange(512) >= 128))
    result = encode(encoded, linalg.edit_matrix(old, r[None], torch.ones(1)), parts)
    assert (r @ decode(encoded, result.parts)).norm() < 0.02 * (r @ old).norm()
    assert torch.equal(result.parts[SCALE][0], parts[SCALE][0])


@pytest.mark.parametrize("outlier", [1.0, 30.0, math.inf])
@pytest.mark.parametrize("kind", ["block", "channel", "tensor", "mxfp4"])
def test_a_direction_with_an_outlier_is_removed_too(kind: str, outlier: float, tmp_path: Path) -> None:
    """Residual streams have such dimensions; where the direction is one of them, a row all but
    vanishes.
    """
    r = (
        torch.eye(512)[3]
        if math.isinf(outlier)
        else linalg.normalise(unit(width=512) + outlier * torch.eye(512)[3])
    )
    encoded, parts = quantised(torch.randn(512, 256), kind, tmp_path)
    old = decode(encoded, parts).reshape(512, 256)
    new = linalg.edit_matrix(old, r[None], torch.ones(1))
    result = encode(encoded, new.reshape(encoded.shape), parts)
    assert (r @ decode(encoded, result.parts).reshape(512, 256)).norm() < 0.02 * (r @ old).norm()
    assert result.error < {"mxfp4": 0.12}.get(kind, 0.03)


def test_nearest_rounding_would_put_most_of_the_direction_back(tmp_path: Path) -> None:
    """What the test above would see without the search, so that it is no test of luck."""
    r = unit(width=512)
    encoded, parts = quantised(torch.randn(512, 256), "mxfp4", tmp_path)
    old = decode(encoded, parts)[0]
    new = linalg.edit_matrix(old, r[None], torch.ones(1))
    scale = (parts[f"{EXPERTS}_scales"][0].float() - 127).exp2().repeat_interleave(32, 1)
    stored = rounding.nearest(new / scale, rounding.E2M1) * scale
    assert (r @ stored).norm() > 0.4 * (r @ old).norm()


@pytest.mark.parametrize("kind", ["block", "mxfp4"])
def test_several_directions_are_removed_together(kind: str, tmp_path: Path) -> None:
    B = orthonormal(3, width=512)
    W = torch.randn(512, 256) + 2 * B.T @ torch.randn(3, 256)
    encoded, parts = quantised(W, kind, tmp_path)
    old = decode(encoded, parts).reshape(512, 256)
    new = linalg.edit_matrix(old, B, torch.ones(3))
    stored = decode(encoded, encode(encoded, new.reshape(encoded.shape), parts).parts).reshape(512, 256)
    assert (B @ stored).norm() < {"mxfp4": 0.12}.get(kind, 0.04) * (B @ old).norm()


def test_an_embedding_is_rounded_along_its_rows(tmp_path: Path) -> None:
    r = unit(width=256)
    encoded, parts = quantised(torch.randn(512, 256), "channel", tmp_path)
    old = decode(encoded, parts)
    new = linalg.edit_rows(old, r[None], torch.ones(1))
    left = {}
    for vectors in ("input", "output"):
        result = encode(encoded, new, parts, vectors=vectors)
        left[vectors] = float((decode(encoded, result.parts) @ r).norm() / (old @ r).norm())
        assert result.lost < 0.02
    assert left["input"] < 0.02 < left["output"]


def test_experts_come_one_at_a_time_and_give_what_all_at_once_give(tmp_path: Path) -> None:
    parts = mxfp4_parts(3, 64, 2)
    encoded, parts = opened(folder(tmp_path, parts, {"quant_method": "mxfp4"}), EXPERTS)
    seen = []

    def change(matrix: Tensor) -> Tensor:
        seen.append(matrix.shape)
        return linalg.edit_matrix(matrix, unit(width=64)[None], torch.ones(1))

    whole = requantize(encoded, parts, change)
    assert seen == [(64, 64)] * 3
    new = torch.stack(
        [linalg.edit_matrix(m, unit(width=64)[None], torch.ones(1)) for m in decode(encoded, parts)]
    )
    assert same(whole.parts, encode(encoded, new, parts).parts)
    slices = [
        requantize(encoded.experts(b - a), {name: part[a:b] for name, part in parts.items()}, change).parts
        for a, b in ((0, 1), (1, 3))
    ]
    assert same(whole.parts, {name: torch.cat([s[name] for s in slices]) for name in parts})


def test_a_change_may_write_into_what_it_gets(tmp_path: Path) -> None:
    encoded, parts = opened(folder(tmp_path, mxfp4_parts(1, 64, 2), {"quant_method": "mxfp4"}), EXPERTS)
    assert same(
        requantize(encoded, parts, lambda W: W.mul_(3)).parts,
        requantize(encoded, parts, lambda W: W * 3).parts,
    )


def model_folder(path: Path, kind: str) -> str:
    """A tiny quantised model as released, and the name of a writer in it."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32}
    if kind == "mxfp4":
        experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "layer_types": ["full_attention"]}
        config = AutoConfig.for_model(
            "gpt_oss", hidden_size=64, intermediate_size=64, head_dim=16, **sizes, **experts
        )
        quantization = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    else:
        config = AutoConfig.for_model("llama", hidden_size=256, intermediate_size=256, **sizes)
        quantization = BLOCK | {"activation_scheme": "dynamic", "modules_to_not_convert": ["lm_head"]}
    model = AutoModelForCausalLM.from_config(config).bfloat16()
    tensors = dict(model.state_dict())
    for name in list(tensors):
        if name.endswith(("experts.down_proj", "experts.gate_up_proj")):
            rows = tensors.pop(name).shape[-1]
            blocks, scales = mxfp4_parts(2, rows, 2).values()
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        elif kind == "fp8" and "proj" in name:
            tensors |= dict(zip((name, f"{name}_scale_inv"), fp8_blocks(*tensors[name].shape), strict=True))
    folder(path, tensors)
    save_file(
        {n: t.clone() for n, t in tensors.items()}, path / "model.safetensors", metadata={"format": "pt"}
    )
    (path / "config.json").write_text(json.dumps(config.to_dict() | {"quantization_config": quantization}))
    return EXPERTS if kind == "mxfp4" else NAME


@pytest.mark.tiny
@pytest.mark.parametrize("kind", ["fp8", "mxfp4"])
def test_an_edited_folder_is_what_transformers_loads(kind: str, tmp_path: Path) -> None:
    """Square writers: only the right axis and order of nibbles give the loaded model a stream
    without the direction.
    """
    name = model_folder(tmp_path / "base", kind)
    checkpoint = Checkpoint.open(tmp_path / "base")
    encoded = locate(checkpoint, name)
    r = unit(width=encoded.shape[-2])
    change = Change(
        encoded.parts,
        lambda parts: (
            requantize(encoded, parts, lambda W: linalg.edit_matrix(W, r[None], torch.ones(1))).parts
        ),
    )
    rewrite(checkpoint, tmp_path / "edited", [change])
    writes = {}
    for which in ("base", "edited"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / which, dtype=torch.float32)
        loaded = model.get_parameter(name).detach().float()
        W = decode(*opened(Checkpoint.open(tmp_path / which), name))
        # What GptOssExperts multiplies from the right is stored as its transpose.
        written = loaded.mT if kind == "mxfp4" else loaded
        assert torch.equal(written, W)
        writes[which] = float((r @ written).norm())
    assert writes["edited"] < 0.03 * writes["base"]
    held = {n: e for n, e in Checkpoint.open(tmp_path / "edited").tensors.items() if n not in encoded.parts}
    assert all(
        same({n: read_stored(checkpoint, n)}, {n: read_stored(Checkpoint.open(tmp_path / "edited"), n)})
        for n in held
    )


# What belongs to what


def test_companions_are_scales_packs_and_calibrations_of_weights_that_are_there(tmp_path: Path) -> None:
    layer = "model.layers.0"
    fp8 = torch.zeros(8, 8).to(E4M3)
    tensors = {
        f"{layer}.mlp.down_proj.weight": fp8,
        f"{layer}.mlp.down_proj.weight_scale": torch.ones(1),
        f"{layer}.mlp.down_proj.input_scale": torch.ones(1),
        f"{layer}.self_attn.k_proj.weight": fp8,
        f"{layer}.self_attn.k_proj.weight_scale_inv": torch.ones(()),
        f"{layer}.self_attn.k_proj.activation_scale": torch.ones(()),
        f"{layer}.self_attn.k_proj.output_scale": torch.ones(1),
        f"{layer}.self_attn.k_scale": torch.ones(1),
        f"{layer}.self_attn.k_proj.k_scale": torch.ones(1),
        f"{layer}.self_attn.v_scale": torch.ones(1),
        f"{layer}.mlp.experts.down_proj": fp8[None],
        f"{layer}.mlp.experts.down_proj_scale_inv": torch.ones(1, 1, 1),
        f"{layer}.mlp.experts.down_proj_activation_scale": torch.ones(1),
        f"{layer}.mlp.experts.down_proj_bias": torch.ones(1, 8),
        f"{layer}.mlp.experts.gate_up_proj_blocks": torch.zeros(1, 8, 1, 16, dtype=torch.uint8),
        f"{layer}.mlp.experts.gate_up_proj_scales": torch.zeros(1, 8, 1, dtype=torch.uint8),
        f"{layer}.mlp.up_proj.weight": torch.zeros(8, 8),
        f"{layer}.mlp.up_proj.input_scale": torch.ones(1),
        f"{layer}.ffn.scale": torch.ones(1),
        f"{layer}.lost_blocks": torch.ones(1),
    }
    k, down, experts = (
        f"{layer}.self_attn.k_proj.weight",
        f"{layer}.mlp.down_proj.weight",
        f"{layer}.mlp.experts",
    )
    assert companions(folder(tmp_path, tensors)) == {
        f"{layer}.mlp.down_proj.weight_scale": down,
        f"{layer}.mlp.down_proj.input_scale": down,
        f"{layer}.self_attn.k_proj.weight_scale_inv": k,
        f"{layer}.self_attn.k_proj.activation_scale": k,
        f"{layer}.self_attn.k_proj.output_scale": k,
        f"{layer}.self_attn.k_scale": k,
        f"{layer}.self_attn.k_proj.k_scale": k,
        f"{experts}.down_proj_scale_inv": f"{experts}.down_proj",
        f"{experts}.down_proj_activation_scale": f"{experts}.down_proj",
        f"{experts}.gate_up_proj_blocks": f"{experts}.gate_up_proj",
        f"{experts}.gate_up_proj_scales": f"{experts}.gate_up_proj",
    }


def test_every_scale_name_is_found(tmp_path: Path) -> None:
    for at, scale in enumerate(scale_names(NAME)):
        tensors = {NAME: every_byte((8, 8)), scale: torch.ones(1)}
        assert locate(folder(tmp_path / str(at), tensors, BLOCK), NAME).parts == (NAME, scale)


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
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
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
    with pytest.raises(CheckpointError, match=r"not in.*download"):
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
