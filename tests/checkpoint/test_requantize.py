"""Weights that change are rounded to the grid of their stored form: scales move with them, and the
edit survives.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from packed_weights import (
    BLOCK,
    E4M3,
    E5M2,
    EXPERTS,
    FP4_VALUES,
    NAME,
    QUANTISED,
    SCALE,
    bits,
    folder,
    fp8_blocks,
    mxfp4_parts,
    opened,
    same,
    stored_as,
)
from safetensors.torch import save_file
from tiny import orthonormal, unit
from torch import Tensor

from vectomy.checkpoint import Change, Checkpoint, read_stored, rewrite
from vectomy.checkpoint.quantization import (
    PackedWeight,
    decode,
    encode,
    locate,
    mxfp4,
    requantize,
    rounding,
)
from vectomy.core import linalg

TIER = "tiny"


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
    from transformers import AutoConfig, AutoModelForCausalLM

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
    from transformers import AutoModelForCausalLM

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
