"""Model families as data: module names, read from the modeling files of transformers 5.

To add one whose blocks are sequential and pre-norm with nothing between writer and stream, add a row; every tensor of
a checkpoint must be named by its family, or the model is refused (resolve.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True)
class Family:
    """Names of one model family; those of blocks are relative to `blocks`.N."""

    blocks: str
    embedding: str
    final_norm: str
    head: str
    attention: str
    """Output projection of the attention: writes resid_mid - resid_pre."""
    mlp: str
    """Down projection of the MLP: writes resid_post - resid_mid."""
    mid_norm: str
    """The norm that reads resid_mid."""
    readers: tuple[str, ...]
    """Modules of a block that only read the stream: projections, norms, and their biases."""
    ignored: tuple[str, ...] = ()
    """Tensors of a block that older checkpoints carry and the model does not use."""
    tied_by_default: bool = False
    """What transformers takes for a config.json that does not say `tie_word_embeddings`."""


LLAMA = Family(
    blocks="model.layers",
    embedding="model.embed_tokens",
    final_norm="model.norm",
    head="lm_head",
    attention="self_attn.o_proj",
    mlp="mlp.down_proj",
    mid_norm="post_attention_layernorm",
    readers=(
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "input_layernorm",
        "post_attention_layernorm",
    ),
    ignored=("self_attn.rotary_emb.inv_freq",),
)
QWEN3 = replace(LLAMA, readers=(*LLAMA.readers, "self_attn.q_norm", "self_attn.k_norm"))

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": QWEN3,
    "smollm3": replace(LLAMA, tied_by_default=True),
}
"""By `model_type` of config.json."""
