"""State space models, linear attention, convolutions, and their hybrids with attention."""

from __future__ import annotations

from dataclasses import replace

from vectomy.architecture.families.common import (
    ATTENTION,
    EXPERTS,
    LINEAR,
    LLAMA,
    MAMBA,
    MLP,
    SHARED_ONE,
    TIED,
    embedding_writer,
    expert_writer,
    shared_expert_writer,
)
from vectomy.architecture.families.spec import Family, Norm, WriterSpec

__all__ = ["HYBRID"]

BACKBONE = Family(
    "backbone.layers",
    (WriterSpec("ssm", "mixer.out_proj", functional=True),),
    embedding_writer("backbone.embeddings"),
    mid=None,
    single=True,
)

QWEN35 = replace(LLAMA, slots=(ATTENTION, LINEAR, MLP))

QWEN_NEXT = replace(LLAMA, slots=(ATTENTION, LINEAR, MLP, EXPERTS, SHARED_ONE))

BAMBA = replace(
    LLAMA, slots=(ATTENTION, MAMBA, WriterSpec("mlp", "feed_forward.down_proj")), mid="pre_ff_layernorm"
)

LFM2 = replace(
    LLAMA,
    slots=(
        WriterSpec("conv", "conv.out_proj", functional=True),
        WriterSpec("attention", "self_attn.out_proj"),
        WriterSpec("mlp", "feed_forward.w2"),
        expert_writer("feed_forward.experts", "feed_forward.experts.{expert}.w2.weight"),
    ),
    mid="ffn_norm",
    tied_by_default=True,
)

LFM3 = replace(
    LFM2,
    slots=(
        WriterSpec("conv", "conv.out_proj", norms=(Norm("post_operator_norm"),), functional=True),
        replace(ATTENTION, norms=(Norm("post_operator_norm"),)),
        WriterSpec("mlp", "feed_forward.w2", norms=(Norm("post_ffn_norm"),)),
    ),
)

ZAMBA = replace(
    LLAMA,
    slots=(MAMBA, WriterSpec("ssm", "mamba_decoder.mamba.out_proj", functional=True)),
    mid=None,
    single=True,
    tied_by_default=True,
    ties_more=True,
    # The shared transformer feeds the mixer of its layer, and does not write.
    reads=("shared_transf.*", "shared_transformer.*", "linear.weight"),
)

NEMOTRON_H = replace(
    LLAMA,
    slots=(
        WriterSpec("ssm", "mixer.out_proj", functional=True),
        WriterSpec("attention", "mixer.o_proj"),
        WriterSpec("mlp", "mixer.down_proj"),
        replace(expert_writer("mixer.experts"), unless="mixer.fc2_latent_proj"),
        WriterSpec("experts", "mixer.fc2_latent_proj"),
        shared_expert_writer("mixer.shared_experts.down_proj"),
    ),
    embeddings=embedding_writer("model.embeddings"),
    mid=None,
    single=True,
    layouts=((("model.", "backbone."),), ()),
    # Experts that work on a narrower vector write through fc2_latent_proj.
    reads=("mixer.experts.*",),
)

HYBRID: dict[str, Family] = {
    "mamba": replace(BACKBONE, tied_by_default=True),
    "falcon_mamba": replace(BACKBONE, tied_by_default=True),
    "mamba2": BACKBONE,
    "xlstm": Family(
        "backbone.blocks",
        (WriterSpec("ssm", "mlstm_layer.out_proj", functional=True), WriterSpec("mlp", "ffn.proj_down")),
        embedding_writer("backbone.embeddings"),
        mid="norm_ffn",
    ),
    "qwen3_next": QWEN_NEXT,
    "qwen3_5_text": QWEN35,
    "qwen3_5_moe_text": QWEN_NEXT,
    "recurrent_gemma": replace(
        TIED,
        slots=(
            WriterSpec("ssm", "temporal_block.linear_out"),
            WriterSpec("attention", "temporal_block.o_proj"),
            WriterSpec("mlp", "mlp_block.down_proj"),
        ),
        mid="channel_pre_norm",
    ),
    "bamba": BAMBA,
    "falcon_h1": BAMBA,
    "jamba": replace(BAMBA, slots=(*BAMBA.slots, expert_writer("feed_forward.experts"))),
    "lfm2": LFM2,
    "lfm2_moe": LFM2,
    "lfm3": LFM3,
    "zamba": ZAMBA,
    "zamba2": ZAMBA,
    "nemotron_h": NEMOTRON_H,
}
"""By `model_type` of config.json."""
