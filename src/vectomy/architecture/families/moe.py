"""Mixtures of experts."""

from __future__ import annotations

from dataclasses import replace

from vectomy.architecture.families.common import (
    ATTENTION,
    EXPERTS,
    LLAMA,
    MAMBA,
    MLP,
    MOE,
    SHARED,
    SHARED_ONE,
    W2_EXPERTS,
    embedding_writer,
    expert_writer,
    shared_expert_writer,
)
from vectomy.architecture.families.spec import Family, Norm, WriterSpec

__all__ = ["MOE_FAMILIES"]

MOE_ONE = replace(LLAMA, slots=(ATTENTION, MLP, EXPERTS, SHARED_ONE))

W2_MOE = replace(LLAMA, slots=(ATTENTION, W2_EXPERTS))

AFMOE_NORM = (Norm("post_mlp_layernorm"),)

AFMOE = replace(
    LLAMA,
    slots=(
        replace(ATTENTION, norms=(Norm("post_attention_layernorm"),)),
        replace(MLP, norms=AFMOE_NORM),
        replace(SHARED, norms=AFMOE_NORM),
        replace(EXPERTS, norms=AFMOE_NORM),
    ),
    mid="pre_mlp_layernorm",
)

GRANITE_EXPERTS = replace(
    expert_writer("block_sparse_moe.experts"), stored=(("block_sparse_moe.output_linear.weight", 1),)
)

GRANITE_MOE = replace(
    LLAMA,
    slots=(ATTENTION, MAMBA, GRANITE_EXPERTS, shared_expert_writer("shared_mlp.output_linear")),
)

MOE_FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        ["olmoe", "qwen3_moe", "mellum", "mimo_v2_flash"], replace(LLAMA, slots=(ATTENTION, MLP, EXPERTS))
    ),
    **dict.fromkeys(
        [
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "glm4_moe",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "exaone_moe",
            "dots1",
            "solar_open",
            "dots3_note_text",
            "mistral4",
        ],
        MOE,
    ),
    "ernie4_5_moe": replace(MOE, tied_by_default=True),
    "cohere2_moe": replace(MOE, mid=None, tied_by_default=True),
    "axk2": replace(MOE, reads=("input_layernorm.*", "post_attention_layernorm.*")),
    "axk1": replace(
        MOE,
        slots=(
            ATTENTION,
            MLP,
            *(
                replace(slot, norms=(Norm("mlp.post_mlp_layernorm", stored=("post_mlp_layernorm",)),))
                for slot in (EXPERTS, SHARED)
            ),
        ),
    ),
    **dict.fromkeys(["qwen2_moe", "flint"], MOE_ONE),
    **dict.fromkeys(["mixtral", "phimoe", "minimax_m2"], W2_MOE),
    "afmoe": AFMOE,
    "hunyuan_v1_moe": replace(
        MOE, slots=(ATTENTION, EXPERTS, shared_expert_writer("mlp.shared_mlp.down_proj"))
    ),
    "hy_v3": replace(
        MOE,
        slots=(
            ATTENTION,
            MLP,
            EXPERTS,
            shared_expert_writer("mlp.shared_experts.down_proj", "mlp.shared_mlp.down_proj.weight"),
        ),
    ),
    "laguna": replace(
        MOE,
        slots=(
            ATTENTION,
            MLP,
            EXPERTS,
            shared_expert_writer("mlp.shared_experts.down_proj", "mlp.shared_expert.down_proj.weight"),
        ),
    ),
    "kimi_linear": replace(
        MOE,
        slots=(
            ATTENTION,
            replace(MLP, stored=(("block_sparse_moe.down_proj.weight", 0),)),
            W2_EXPERTS,
            shared_expert_writer(
                "mlp.shared_experts.down_proj", "block_sparse_moe.shared_experts.down_proj.weight"
            ),
        ),
    ),
    "minimax_m3_vl_text": replace(
        MOE,
        slots=(
            ATTENTION,
            MLP,
            W2_EXPERTS,
            shared_expert_writer(
                "mlp.shared_experts.down_proj", "block_sparse_moe.shared_experts.down_proj.weight"
            ),
        ),
    ),
    "bailing_hybrid": replace(
        MOE,
        slots=(replace(ATTENTION, stored=(("attention.dense.weight", 0),)), MLP, EXPERTS, SHARED),
        layouts=((("model.embed_tokens", "model.word_embeddings"),), ()),
    ),
    # Stored as they are loaded: [expert, d_ff, d_model], square in the released models.
    "gpt_oss": replace(LLAMA, slots=(ATTENTION, replace(EXPERTS, axis=2, stored=()))),
    "llama4_text": replace(
        LLAMA,
        slots=(
            ATTENTION,
            WriterSpec("mlp", "feed_forward.down_proj"),
            replace(expert_writer("feed_forward.experts"), axis=2, stored=()),
            shared_expert_writer("feed_forward.shared_expert.down_proj"),
        ),
    ),
    "aria_text": replace(
        LLAMA, slots=(ATTENTION, replace(EXPERTS, axis=2, stored=(("mlp.experts.fc2.weight", 2),)), SHARED)
    ),
    "dbrx": Family(
        "transformer.blocks",
        (
            WriterSpec("attention", "norm_attn_norm.attn.out_proj"),
            # [expert * d_ff, d_model]
            WriterSpec("experts", "ffn.experts", "ffn.experts.mlp.w2", axis=1, flat=True),
        ),
        embedding_writer("transformer.wte"),
        mid=None,
        names={"hidden_size": "d_model", "num_hidden_layers": "n_layers"},
    ),
    "granitemoe": GRANITE_MOE,
    "granitemoeshared": GRANITE_MOE,
    "granitemoe_swa": GRANITE_MOE,
    "granitemoehybrid": GRANITE_MOE,
    "jetmoe": replace(
        LLAMA,
        slots=(
            WriterSpec(
                "attention",
                "self_attention.experts.output_linear",
                bias="self_attention.experts.bias",
                axis=1,
                loose_bias=True,
            ),
            WriterSpec("experts", "mlp", "mlp.output_linear.weight", axis=1),
        ),
        tied_by_default=True,
    ),
}
"""By `model_type` of config.json."""
