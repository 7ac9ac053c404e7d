"""Transformers with a norm between their writers and the stream, dense and sparse."""

from __future__ import annotations

from dataclasses import replace

from vectomy.architecture.families.common import (
    ATTENTION,
    EXPERTS,
    LINEAR,
    LLAMA,
    MLP,
    SHARED,
    expert_writer,
    with_post_norms,
)
from vectomy.architecture.families.spec import Family, Norm, WriterSpec

__all__ = ["POST_NORM"]

GEMMA2 = replace(
    with_post_norms("post_attention_layernorm", "post_feedforward_layernorm", offset=1.0),
    tied_by_default=True,
)

# The MLP reads the stream itself; the norm comes behind it.
OLMO2 = with_post_norms("post_attention_layernorm", "post_feedforward_layernorm", mid="mlp")

GLM4 = with_post_norms("post_self_attn_layernorm", "post_mlp_layernorm", mid="post_attention_layernorm")

LAST = Norm("post_feedforward_layernorm")

GEMMA4 = replace(
    LLAMA,
    slots=(
        replace(ATTENTION, norms=(Norm("post_attention_layernorm"),)),
        replace(MLP, norms=(Norm("post_feedforward_layernorm_1", optional=True), LAST)),
        expert_writer("experts", norms=(Norm("post_feedforward_layernorm_2"), LAST)),
        WriterSpec("per_layer", "per_layer_projection", norms=(Norm("post_per_layer_input_norm"),)),
    ),
    mid="pre_feedforward_layernorm",
    tied_by_default=True,
)

POST_NORM: dict[str, Family] = {
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "gemma4_text": GEMMA4,
    "gemma4_unified_text": GEMMA4,
    **dict.fromkeys(["olmo2", "olmo3", "exaone4"], OLMO2),
    "glm4": GLM4,
    "flex_olmo": replace(
        OLMO2,
        slots=(OLMO2.slots[0], replace(EXPERTS, norms=(Norm("post_feedforward_layernorm"),))),
    ),
    "olmo_hybrid": replace(
        LLAMA,
        slots=(
            replace(ATTENTION, norms=(Norm("post_attention_layernorm", stored=("feedforward_layer_norm",)),)),
            replace(LINEAR, module="linear_attn.o_proj"),
            replace(MLP, norms=(Norm("post_feedforward_layernorm", optional=True),)),
        ),
        mid=None,
    ),
    "hyperclovax": replace(
        LLAMA,
        slots=(
            replace(ATTENTION, norms=(Norm("post_norm1", optional=True),)),
            replace(MLP, norms=(Norm("post_norm2", optional=True),)),
        ),
    ),
    "beam": replace(
        LLAMA,
        slots=(
            replace(ATTENTION, norms=(Norm("post_attention_layernorm"),)),
            *(replace(slot, norms=(Norm("post_feedforward_layernorm"),)) for slot in (MLP, EXPERTS, SHARED)),
        ),
        mid="pre_feedforward_layernorm",
    ),
    "kolibri1": replace(
        LLAMA,
        slots=(
            replace(ATTENTION, norms=(Norm("post_self_attn_layernorm", stored=("post_attn_norm",)),)),
            *(
                replace(slot, norms=(Norm("post_mlp_layernorm", stored=("post_ffn_norm",)),))
                for slot in (MLP, EXPERTS, SHARED)
            ),
        ),
        mid=None,
    ),
}
"""By `model_type` of config.json."""
