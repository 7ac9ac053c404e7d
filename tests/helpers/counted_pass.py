"""Passes of real shapes on the meta device, with the search's own hooks: what autograd stores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vectomy.architecture import architecture_of
from vectomy.hooks.writer_outputs import change_outputs
from vectomy.models.model_shape import ModelShape, build_on_meta
from vectomy.models.recompute import count_saved_bytes
from vectomy.search.gradient.parameters import ablate_with_strengths

# From the config.json of each release.
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-4B": {
        "model_type": "qwen3",
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "Qwen3-8B": {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "Gemma-2-9b": {
        "model_type": "gemma2",
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "vocab_size": 256000,
    },
    "Qwen3-14B": {
        "model_type": "qwen3",
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "Qwen3-32B": {
        "model_type": "qwen3",
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "Llama-3.1-70B": {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "Llama-3.1-405B": {
        "model_type": "llama",
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "a mixture of 1T": {
        "model_type": "qwen3_moe",
        "hidden_size": 6144,
        "intermediate_size": 8192,
        "moe_intermediate_size": 2560,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
    },
}
# The search edits the writers from this share of the depth on.
START = 0.4


def config_folder(name: str, folder: Path | None = None) -> Path:
    """A folder with nothing but the config.json of a shape."""
    folder = folder or Path(tempfile.mkdtemp(prefix="vectomy-shape-"))
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**SHAPES[name], "dtype": "bfloat16"})
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


class _Fused(torch.autograd.Function):
    """What a fused kernel of attention stores: its inputs, its output and the sums of its rows."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(value) for value in ctx.saved_tensors[:3])


def _attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **_options: Any) -> Tensor:
    return _Fused.apply(query, key, value)


@contextmanager
def _fused_attention() -> Iterator[None]:
    """On the meta device PyTorch has no fused kernel, and would count a square of scores."""
    plain = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = _attend
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = plain


def count_kept(folder: Path, tokens: int) -> tuple[ModelShape, int, int]:
    """The shape of a config.json; bytes that a pass of one row stores for its backward pass under
    hooks on the writers of the search; and the layers that these hooks are in.
    """
    model = build_on_meta(folder)
    arch = architecture_of(model)
    start = round(START * arch.n_layers)
    basis = torch.ones(1, arch.d_model, device="meta", requires_grad=True)
    strength = torch.ones(1, device="meta", requires_grad=True)

    ablate = ablate_with_strengths(basis, strength)
    changes = [(w, ablate) for w in arch.writers if w.layer is not None and w.layer >= start]
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    mask = torch.zeros(1, 1, tokens, tokens, dtype=model.dtype, device="meta")
    eager = model.config._attn_implementation == "eager"
    given = {"full_attention": mask, "sliding_attention": mask} if eager else mask

    def run() -> None:
        model.base_model(input_ids=ids, attention_mask=given, use_cache=False)

    with (
        torch.enable_grad(),
        change_outputs(model, changes),
        nullcontext() if eager else _fused_attention(),
    ):
        stored = count_saved_bytes(run)
    return ModelShape.of(model), stored, arch.n_layers - start
