"""What stored weights decode to, and the bytes that stay when they are encoded again."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packed_weights import (
    BLOCK,
    E4M3,
    EXPERTS,
    FP4_VALUES,
    NAME,
    QUANTISED,
    SCALE,
    bits,
    every_byte,
    folder,
    fp8_blocks,
    mxfp4_parts,
    opened,
    same,
    stored_as,
)

from vectomy.checkpoint.quantization import (
    companions,
    decode,
    encode,
    fp8,
    locate,
)
from vectomy.checkpoint.quantization.layout import scale_names

TIER = "unit"

PLAIN = [f"plain-{dtype}" for dtype in ("float64", "float32", "float16", "bfloat16")]

# What a weight decodes to


@pytest.mark.parametrize("kind", QUANTISED)
def test_decoding_is_values_times_scales_of_the_stored_shape(kind: str, tmp_path: Path) -> None:
    name, tensors, config = stored_as(kind)
    encoded, parts = opened(folder(tmp_path, tensors, config), name)
    W = decode(encoded, parts)
    assert W.shape == encoded.shape
    assert W.dtype == torch.float32
    if kind == "mxfp4":
        blocks, scale = tensors.values()
        nibbles = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()
        powers = (scale.float() - 127).exp2()[..., None]
        oracle = (torch.tensor(FP4_VALUES)[nibbles] * powers).flatten(-2)
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


@pytest.mark.tiny
@pytest.mark.parametrize("kind", ["block", "experts", "mxfp8"])
def test_fp8_decodes_as_transformers_dequantises(kind: str, tmp_path: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

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


@pytest.mark.tiny
def test_mxfp4_rows_are_the_output_axis_and_transformers_transposes_them(tmp_path: Path) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

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
