"""K-quants by ggml's quantiser: its bytes mean what the gguf library reads, and every tensor gets
the type that llama.cpp's mixes give it.
"""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_files import read, values

from vectomy.checkpoint.gguf import GgufFile, GgufTensor, check_quantizer, ggml_quantizer, mixed_type
from vectomy.checkpoint.gguf.blocks import dequantize_blocks, quantize_blocks
from vectomy.checkpoint.gguf.ggml_quantizer import ggml_library, quantize_with_ggml
from vectomy.core.errors import CheckpointError
from vectomy.edits.export.gguf_convert import QUANTS, quantise_gguf

TIER = "unit"

pytestmark = pytest.mark.skipif(ggml_library() is None, reason="needs ggml: pip install xllamacpp")
# Root mean square errors of normal numbers, relative: ggml's own, from its unit tests' order.
MOST = {"Q4_K": 0.08, "Q5_K": 0.04, "Q6_K": 0.02, "Q8_0": 0.006}


def matrix(rows: int = 48, columns: int = 512) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", MOST)
def test_the_bytes_are_read_by_the_library_as_the_values(kind: str) -> None:
    wanted = matrix()
    stored = dequantize_blocks(quantize_with_ggml(wanted, kind), kind)
    assert float((stored - wanted).norm() / wanted.norm()) < MOST[kind]
    # A row's bytes do not depend on the other rows: files are written in stretches.
    again = dequantize_blocks(quantize_with_ggml(wanted[7:9], kind), kind)
    assert torch.equal(again, stored[7:9])


def test_ggml_and_the_gguf_library_write_the_same_q8_0() -> None:
    wanted = matrix()
    assert np.array_equal(quantize_with_ggml(wanted, "Q8_0"), quantize_blocks(wanted, "Q8_0"))


def kind_of(
    name: str, shape: tuple[int, ...] = (512, 512), quant: str = "q4_k_m", tied: bool = False
) -> str | None:
    """The type in a model of 16 layers."""
    return mixed_type(GgufTensor(f"{name}.weight", "F16", shape, 0, 0), quant, 16, tied)


def test_the_mix_is_that_of_llama_cpp() -> None:
    """Of 16 layers the first and the last two, and every third between, get more bits in attention
    values and MLP outputs; the head and joint queries, keys and values always; rows of no whole
    k-block get blocks of 32.
    """
    more = [layer for layer in range(16) if kind_of(f"blk.{layer}.ffn_down") == "Q6_K"]
    assert more == [0, 1, 4, 7, 10, 13, 14, 15]
    assert [layer for layer in range(16) if kind_of(f"blk.{layer}.attn_v") == "Q6_K"] == more
    for quant, joint in (("q4_k_m", "Q5_K"), ("q5_k_m", "Q6_K"), ("q6_k", "Q6_K")):
        assert {kind_of(f"blk.{layer}.attn_qkv", quant=quant) for layer in range(16)} == {joint}
    assert kind_of("blk.0.attn_v_b") == "Q4_K"
    for name in ("blk.0.attn_q", "blk.0.ffn_up", "blk.0.attn_output", "token_embd"):
        assert kind_of(name) == "Q4_K"
        assert kind_of(name, quant="q5_k_m") == "Q5_K"
        assert kind_of(name, (512, 576)) == "Q5_0"
    assert kind_of("output") == "Q6_K"
    assert kind_of("token_embd", tied=True) == "Q6_K"
    assert kind_of("token_embd", (512, 576), tied=True) == "Q8_0"
    assert kind_of("blk.0.attn_norm", (512,)) is None
    assert kind_of("blk.0.ffn_gate_inp", (8, 512)) is None
    assert kind_of("blk.0.ffn_up", (512, 100)) is None


def write_plain(path: Path) -> dict[str, torch.Tensor]:
    """A file of two layers, one tensor of which has rows of 288."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(256)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_uint32("general.file_type", 0)
    made = {
        "token_embd.weight": matrix(64, 256),
        "blk.0.ffn_down.weight": matrix(64, 512),
        "blk.1.attn_q.weight": matrix(64, 256),
        "blk.1.ffn_up.weight": matrix(64, 288),
        "blk.1.attn_norm.weight": matrix(1, 256)[0],
    }
    for name, value in made.items():
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


@pytest.mark.parametrize("quant", ["q4_k_m", "q5_k_m", "q6_k"])
def test_a_file_is_written_in_the_mix(quant: str, tmp_path: Path) -> None:
    made = write_plain(tmp_path / "plain.gguf")
    costs = quantise_gguf(GgufFile.open(tmp_path / "plain.gguf"), tmp_path / "out.gguf", quant)
    stored = read(tmp_path / "out.gguf")
    assert "blk.1.attn_norm.weight" not in costs
    for name, wanted in made.items():
        error = float((values(stored[name]).reshape(wanted.shape) - wanted).norm() / wanted.norm())
        assert error < 0.08
        assert math.isclose(costs[name].error, error, rel_tol=1e-3) if name in costs else error == 0
    field = gguf.GGUFReader(tmp_path / "out.gguf").fields["general.file_type"]
    assert int(field.parts[field.data[0]][0]) == QUANTS[quant]
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["out.gguf"] < sizes["plain.gguf"] / 3


def test_without_ggml_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml_quantizer, "ggml_library", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CheckpointError, match=r"llama-quantize .*pip install xllamacpp.*--quant q8_0"):
        check_quantizer("q4_k_m")
    check_quantizer("q8_0")
    with pytest.raises(CheckpointError, match="pip install xllamacpp"):
        quantize_with_ggml(matrix(), "Q4_K")
