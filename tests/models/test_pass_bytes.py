"""The formula of a pass's memory against what autograd stores, on real shapes without numbers."""

from __future__ import annotations

import pytest
import transformers
from counted_pass import SHAPES, config_folder, count_kept

from vectomy.models.block_sizes import BlockSizes
from vectomy.models.memory import count_pass_tokens
from vectomy.models.model_shape import ModelShape, build_on_meta
from vectomy.models.pass_bytes import forward_bytes, kept_bytes, kv_bytes

TIER = "tiny"
MIB = 1 << 20


@pytest.mark.parametrize("tokens", [200, 700])
@pytest.mark.parametrize("name", [name for name in SHAPES if "mixture" not in name])
def test_a_pass_stores_what_the_formula_says(name: str, tokens: int) -> None:
    """Gemma 2 has no fused kernel, so that its squares of scores count."""
    shape, stored, layers = count_kept(config_folder(name), tokens)
    eager = name.startswith("Gemma")
    assert kept_bytes(shape, tokens, layers, eager=eager, softcap=eager) == pytest.approx(stored, rel=0.03)


def test_blocks_that_are_computed_again_keep_their_inputs_and_one_block() -> None:
    """Llama 3.1 8B: 3.3 MiB a token, or 19 streams of 8 KiB and one block of 19."""
    shape = ModelShape.of(build_on_meta(config_folder("Llama-3.1-8B")))
    plain = kept_bytes(shape, 100, 19) / 100
    assert kept_bytes(shape, 100, 19, recompute=True) / 100 == 19 * 2 * 4096 + plain / 19
    assert plain == pytest.approx(3.34 * MIB, rel=0.01)


@pytest.mark.parametrize(
    ("name", "billions", "multiplied"),
    [("Qwen3-4B", 4.02, 3.63), ("Llama-3.1-405B", 405.9, 401.6), ("a mixture of 1T", 977.4, 39.4)],
)
def test_parameters_are_counted_from_the_configuration_alone(
    name: str, billions: float, multiplied: float
) -> None:
    """4B: a tied head counts once, and in no block. Of 256 experts a token meets 8."""
    shape = ModelShape.of(build_on_meta(config_folder(name)))
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=1e-3)
    assert shape.multiplied / 1e9 == pytest.approx(multiplied, rel=2e-3)
    assert shape.bytes == 2 * shape.parameters


def test_passes_as_large_as_memory_allows_are_sized_by_the_same_formula() -> None:
    model = build_on_meta(config_folder("Llama-3.1-8B"))
    shape = ModelShape.of(model)
    tokens = count_pass_tokens(model.config, 8 << 30, 2)
    taken = kv_bytes(shape, tokens) + forward_bytes(shape, tokens)
    assert 0.99 * (4 << 30) < taken <= 4 << 30


def test_of_layers_with_widths_of_their_own_the_widest_counts() -> None:
    """transformers gives such a configuration (Gemma 4) no global width, and raises."""
    config = transformers.AutoConfig.for_model(
        "gemma4_text",
        hidden_size=64,
        num_hidden_layers=2,
        head_dim=16,
        global_head_dim=48,
        layer_types=["sliding_attention", "full_attention"],
    )
    with pytest.raises(RuntimeError, match="per-layer attribute"):
        _ = config.head_dim
    assert BlockSizes.of(config).head_dim == 48
