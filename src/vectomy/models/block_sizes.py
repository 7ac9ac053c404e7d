"""The widths of a model's blocks, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BlockSizes", "count_experts"]

# How configurations call the number of experts of a token, and of a block.
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class BlockSizes:
    """Widths of one block, in numbers a token. `inner` is the width between the matrices of the
    MLPs that a token passes: all its experts together.
    """

    layers: int
    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int

    @classmethod
    def of(cls, config: Any) -> BlockSizes:
        """From transformers' configuration of a text model; what it leaves out is guessed as
        transformers does.
        """
        d_model = _largest(config, "hidden_size")
        heads = _largest(config, "num_attention_heads") or 1
        inner = _largest(config, "intermediate_size") or 4 * d_model
        each = _largest(config, "moe_intermediate_size") or inner
        chosen, _ = count_experts(config)
        shared = _largest(config, "n_shared_experts")
        return cls(
            layers=_largest(config, "num_hidden_layers"),
            d_model=d_model,
            heads=heads,
            kv_heads=_largest(config, "num_key_value_heads") or heads,
            head_dim=_largest(config, "head_dim") or d_model // heads,
            inner=max(inner, (chosen + shared) * each),
        )

    @property
    def kv_numbers(self) -> int:
        """Keys and values of a token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def pass_numbers(self) -> int:
        """What a block computes at once for a token, measured: some 12 times the stream, and 6
        times the inner width of the MLP.
        """
        return 12 * self.d_model + 6 * self.inner


def count_experts(config: Any) -> tuple[int, int]:
    """Experts that a token passes, and experts of a block; 0 where the configuration (an object or
    a mapping) does not say.
    """
    chosen, experts = (
        next((value for key in keys if isinstance(value := _get(config, key), int) and value), 0)
        for keys in (CHOSEN, EXPERTS)
    )
    return chosen, experts


def _get(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _largest(config: Any, name: str) -> int:
    """A number of a configuration, 0 where it has none; of one for each layer, the largest."""
    try:
        value = getattr(config, name, None)
    # transformers raises an error of its own where layers differ, and no AttributeError.
    except RuntimeError:
        value = [getattr(layer, name, None) for layer in _layers(config)]
    values = value if isinstance(value, list | tuple) else [value]
    return max((int(number) for number in values if number), default=0)


def _layers(config: Any) -> list[Any]:
    layers = config.per_layer_config
    return list(layers.values() if isinstance(layers, Mapping) else layers)
