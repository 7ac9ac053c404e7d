"""Bytes of a pass beside the weights, from a model's shape (docs/plan.md states the formulas).

Frozen weights need no copy of their inputs, so a block keeps for the backward pass: the input of
each norm in float32, queries, keys, values and output of attention, gate, activated gate and up
of the MLP, and in float32 the output of each writer that is edited.
"""

from __future__ import annotations

from vectomy.models.model_shape import ModelShape

__all__ = ["forward_bytes", "kept_bytes", "kv_bytes", "loss_bytes"]

FLOAT32 = 4
# Copies of a label's row of logits that KL holds at once: log-probabilities of both models, the
# base's probabilities, their product with the difference, its masked copy, and the mask in bytes.
LOGITS = 5.25


def kv_bytes(shape: ModelShape, tokens: float) -> float:
    """Keys and values of `tokens` tokens in all layers."""
    return tokens * shape.sizes.kv_numbers * shape.itemsize


def forward_bytes(shape: ModelShape, tokens: float) -> float:
    """What one block computes at once in a pass of `tokens` tokens without gradients."""
    return tokens * shape.sizes.pass_numbers * shape.itemsize


def loss_bytes(shape: ModelShape, labels: float) -> float:
    """Logits and probabilities of `labels` labels, in float32."""
    return LOGITS * labels * shape.vocab * FLOAT32


def kept_bytes(
    shape: ModelShape,
    tokens: int,
    layers: int,
    *,
    recompute: bool = False,
    eager: bool = False,
    softcap: bool = False,
    writers: int = 2,
) -> float:
    """What the last `layers` blocks keep for the backward pass of one row of `tokens` tokens.

    Args:
        recompute: blocks are computed again in the backward pass: each keeps its input alone, and
            one at a time all of it.
        eager: attention without a fused kernel keeps a square of scores for each head.
        softcap: these are squashed by a tanh, which keeps its output too.
        writers: edited writers of a block.
    """
    sizes, width = shape.sizes, shape.itemsize
    heads, kv_heads = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    norms = FLOAT32 * (shape.norms * sizes.d_model + (heads + kv_heads if shape.head_norms else 0))
    # Keys and values are repeated for each head of the queries, since passes have a mask.
    attention = width * 3 * heads + (0 if eager else width * heads)
    scores = tokens * sizes.heads * (FLOAT32 + width + (width if softcap else 0)) if eager else 0
    mlp = width * 3 * sizes.inner
    edited = FLOAT32 * writers * sizes.d_model
    block = tokens * (norms + attention + scores + mlp + edited)
    return block + layers * tokens * width * sizes.d_model if recompute else layers * block
