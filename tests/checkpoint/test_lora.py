"""A LoRA is merged as W + (alpha / r) B A."""

from pathlib import Path

import torch
from lora_adapter import ALPHA, NAMES, RANK, adapter

from vectomy.checkpoint.lora import read_lora

TIER = "tiny"


def test_merging_adds_b_a_scaled_by_alpha_over_r(tmp_path: Path) -> None:
    tensors = adapter(tmp_path)
    updates = read_lora(tmp_path)
    assert set(updates) == set(NAMES)
    for at, name in enumerate(NAMES):
        weight = torch.randn(5 + at, 7 + at)
        a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        torch.testing.assert_close(updates[name].adder()(weight), weight + ALPHA / RANK * b @ a)


def test_merging_keeps_the_dtype_and_adds_in_float32(tmp_path: Path) -> None:
    tensors = adapter(tmp_path)
    a, b = (tensors[f"base_model.model.{NAMES[0]}.lora_{part}.weight"] for part in "AB")
    weight = torch.randn(5, 7).bfloat16()
    result = read_lora(tmp_path)[NAMES[0]].adder()(weight)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, (weight.float() + 4 * (b @ a)).bfloat16())


def test_a_transposed_weight_takes_the_transposed_update(tmp_path: Path) -> None:
    adapter(tmp_path)
    update = read_lora(tmp_path)[NAMES[0]]
    weight = torch.randn(7, 5)
    torch.testing.assert_close(update.adder(transposed=True)(weight), weight + update.matrix().T)
