"""What a block holds beside its writers: modules and parameters that read the stream or work inside
of a writer's path.

Patterns (fnmatch) over the name relative to the block, the same for all families: in transformers 5
these names mean the same everywhere. tests/architecture/test_families.py holds that no parameter
that the probe finds to write is read by them first. A tensor that neither these nor the family
names is refused, for it might write.
"""

from __future__ import annotations

__all__ = ["EXTRA_HEADS", "IGNORED", "OUTSIDE_BLOCKS", "READERS", "VALUE_HEADS"]

_MODULES = (
    # Attention: queries, keys, values, latent and indexing projections, gates
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "kv_proj",
    "query_key_value",
    "c_attn",
    "Wqkv",
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "g_proj",
    "b_proj",
    "f_proj",
    "f_a_proj",
    "f_b_proj",
    "g_a_proj",
    "g_b_proj",
    "a_proj",
    "q_gate_proj",
    "self_attn.gate_proj",
    "wk",
    "wq_b",
    "weights_proj",
    "project_q",
    "project_k",
    "project_v",
    # MLPs and experts on their way up
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "c_fc",
    "fc1",
    "fc_in",
    "Wi",
    "w1",
    "w3",
    "dense_h_to_4h",
    "input_linear",
    "proj_up",
    "proj_up_gate",
    "per_layer_input_gate",
    "fc1_latent_proj",
    # Routers
    "gate",
    "wg",
    "router",
    "router.layer",
    "router.gate",
    "router.proj",
    "router.classifier",
    "shared_expert_gate",
    # State space, linear attention, convolution
    "in_proj",
    "in_proj_a",
    "in_proj_b",
    "in_proj_ba",
    "in_proj_z",
    "in_proj_qkv",
    "in_proj_qkvz",
    "x_proj",
    "dt_proj",
    "conv1d",
    "q_conv1d",
    "k_conv1d",
    "v_conv1d",
    "conv",
    "conv_1d",
    "linear_x",
    "linear_y",
    "mlstm_layer.q",
    "mlstm_layer.k",
    "mlstm_layer.v",
    "fgate_preact",
    "igate_preact",
    "ogate_preact",
    # Norms
    "*norm",
    "*norm1",
    "*norm2",
    "*norm_1",
    "*norm_2",
    "*layernorm",
    "*layer_norm",
    "*layernorm_1",
    "*layernorm_2",
    "*layernorm_3",
    "ln_1",
    "ln_2",
    "ln_attn",
    "ln_mlp",
    "norm_attn",
    "norm_ffn",
    "norm_mlstm",
    "*norms.*",
)
_PARAMETERS = (
    "A_log",
    "D",
    "dt_bias",
    "x_proj_weight",
    "dt_proj_weight",
    "dt_proj_bias",
    "sinks",
    "attention_sink_bias",
    "softmax_offset",
    "gate_bias",
    "lambda_q1",
    "lambda_q2",
    "lambda_k1",
    "lambda_k2",
    "*e_score_correction_bias",
    "expert_bias",
    "gate_up_proj",
    "gate_up_proj_bias",
    "w1",
    "v1",
    "act_fn.*",
    "layer_scalar",
    "per_expert_scale",
    "router.scale",
    "rg_lru.*",
    "experts.fc1.weight",
)

READERS: tuple[str, ...] = (
    *(f"{start}{name}.{leaf}" for name in _MODULES for leaf in ("weight", "bias") for start in ("", "*.")),
    *(f"{start}{name}" for name in _PARAMETERS for start in ("", "*.")),
)

IGNORED: tuple[str, ...] = (
    "*rotary_emb.inv_freq",
    "*attn.bias",
    "*attn.masked_bias",
    "*attention.bias",
    "*attention.masked_bias",
    "*attention.rotary_emb.*",
)
"""Tensors of a block that older checkpoints carry and the model does not use."""

OUTSIDE_BLOCKS: tuple[str, ...] = (
    "*norm.weight",
    "*norm.bias",
    "*norm_f.weight",
    "*ln_f.weight",
    "*ln_f.bias",
    "*final_layernorm.weight",
    "*final_layernorm.bias",
    "*layer_norm.weight",
    "*layer_norm.bias",
    "model.embed_tokens_per_layer.weight",
    "model.*embed_tokens_per_layer.weight",
    "*per_layer_model_projection.weight",
    "*lm_head.dense.weight",
    "lm_head.norm.weight",
    "*decoder.bias",
    "decoder.weight",
)
"""Behind the last block, or feeding blocks from the side."""

EXTRA_HEADS: tuple[str, ...] = (
    "mtp.*",
    "model.mtp.*",
    "model.mtp_*",
    "*.mtp_block.*",
    "*mtp_layers.*",
    "*eagle*",
    "*medusa*",
)
"""Heads that predict more tokens: they run behind the stream, and transformers does not load them.
"""

VALUE_HEADS: tuple[str, ...] = (
    "v_head.*",
    "value_head.*",
    "*.v_head.*",
    "*.value_head.*",
    "score.*",
    "regression_head.*",
    "reward_head.*",
    "qa_outputs.*",
    "classifier.*",
)
"""Heads of critics, reward models and classifiers: they read the last state of the stream."""
