"""Tiny random models of (nearly) every causal type that transformers has: `ZOO` is data, a row a
type or a structural variant.

Every number is random, gains, biases, experts and scalar multipliers too. No dimension equals
d_model where the type allows it, so an axis taken for another one does not fit.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

D_MODEL, VOCAB = 32, 97
# What every configuration class gets of these, by the names that it knows.
BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": D_MODEL,
    "intermediate_size": 44,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 5,
    "n_inner": 44,
    "ffn_dim": 44,
    # mixture of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 20,
    "shared_intermediate_size": 28,
    "shared_expert_intermediate_size": 28,
    # latent attention
    "q_lora_rank": 20,
    "kv_lora_rank": 18,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 6,
    "v_head_dim": 10,
    "index_topk": 4,
    "index_head_dim": 16,
    "index_n_heads": 2,
    # state space and linear attention
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 10,
    "mamba_chunk_size": 4,
    "mamba_expand": 2,
    "state_size": 10,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 9,
    "linear_conv_kernel_dim": 3,
}
# The same for vision and audio towers.
TOWER: dict[str, Any] = {
    "hidden_size": 24,
    "embed_dim": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "image_size": 28,
    "patch_size": 14,
    "num_position_embeddings": 16,
    "position_embedding_size": 16,
    "out_hidden_size": D_MODEL,
}
MLA = {"num_key_value_heads": 4, "head_dim": 8}
MIXED_MLP = {"mlp_layer_types": ["dense", "sparse", "sparse", "dense"]}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
LINEAR = {"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"]}
SCALED = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.3,
}


def partial_rotary(factor: float) -> dict[str, Any]:
    return {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": factor}
    }


def mrope(*section: int) -> dict[str, Any]:
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "mrope_section": list(section),
    }
    return {"rope_parameters": rope}


# label -> what differs from BASE, by AutoModelForCausalLM
ROWS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama:bias": {"attention_bias": True, "mlp_bias": True},
    "llama:tied": {"tie_word_embeddings": True},
    "mistral": {},
    "ministral": SLIDING,
    "ministral3": {},
    "qwen2": {},
    "qwen3": {},
    "smollm3": {},
    "gemma": {},
    "gemma2": SLIDING,
    "gemma3_text": SLIDING,
    "gemma3n_text": {
        **SLIDING,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 14,
        "vocab_size_per_layer_input": VOCAB,
        "laurel_rank": 6,
        "intermediate_size": [44] * 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    },
    "gemma4_text": {**SLIDING, "hidden_size_per_layer_input": 0, "global_head_dim": 16},
    "gemma4_text:per_layer_input": {
        **SLIDING,
        "hidden_size_per_layer_input": 14,
        "vocab_size_per_layer_input": VOCAB,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
        "global_head_dim": 16,
    },
    "gemma4_text:moe": {
        **SLIDING,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "top_k_experts": 2,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "global_head_dim": 16,
    },
    "vaultgemma": SLIDING,
    "olmo": {},
    "olmo2": {},
    "olmo3": SLIDING,
    "olmo_hybrid": LINEAR,
    "olmoe": {},
    "flex_olmo": {},
    "phi": {},
    "phi:qk_layernorm": {"qk_layernorm": True},
    "phi3": {},
    "phimoe": {"attention_bias": True, "lm_head_bias": True},
    "gpt2": {},
    "gpt2:default_inner": {"n_inner": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 4},
    "gpt_neox": {},
    "gpt_neox:sequential": {"use_parallel_residual": False},
    "gpt_neox_japanese": {},
    "gptj": {"rotary_dim": 4},
    "gpt_bigcode": {},
    "gpt_bigcode:multi_head": {"multi_query": False},
    "codegen": {"rotary_dim": 4},
    "opt": {},
    "opt:projected": {"word_embed_proj_dim": 24, "do_layer_norm_before": False},
    "opt:no_bias": {"enable_bias": False, "layer_norm_elementwise_affine": False},
    "bloom": {},
    "bloom:post_norm_residual": {"apply_residual_connection_post_layernorm": True},
    "falcon": {},
    "falcon:new_decoder_architecture": {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
    "falcon:one_norm": {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    "falcon:sequential": {"parallel_attn": False, "multi_query": False, "alibi": True, "bias": True},
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "ssm_multipliers": [0.8, 1.1, 0.9, 1.2, 0.7],
        "mlp_multipliers": [0.9, 1.3],
        "attention_out_multiplier": 0.7,
        "ssm_out_multiplier": 1.4,
        "embedding_multiplier": 2.0,
        "lm_head_multiplier": 1.5,
    },
    "falcon_mamba": {},
    "mpt": {},
    "starcoder2": {},
    "stablelm": {},
    "stablelm:parallel": {"use_parallel_residual": True, "use_qkv_bias": True, "qk_layernorm": True},
    "persimmon": {},
    "cohere": {},
    "cohere:qk_norm": {"use_qk_norm": True, "attention_bias": True},
    "cohere2": SLIDING,
    "cohere2_moe": {**SLIDING, **MIXED_MLP, "prefix_dense_intermediate_size": 52},
    "granite": SCALED,
    "granitemoe": SCALED,
    "granitemoeshared": SCALED,
    "granitemoe_swa": {**SCALED, **SLIDING},
    "granite_swa": {**SCALED, **SLIDING},
    "granitemoehybrid": {**SCALED, "layer_types": ["mamba", "attention", "mamba", "attention"]},
    "granitemoehybrid:dense": {
        "layer_types": ["mamba", "attention", "mamba", "attention"],
        "num_local_experts": 0,
    },
    "mixtral": {},
    "qwen2_moe": {},
    "qwen2_moe:mixed": {"mlp_only_layers": [1], "decoder_sparse_step": 2, "num_hidden_layers": 5},
    "qwen3_moe": {},
    "qwen3_moe:mixed": {"mlp_only_layers": [0, 2]},
    "qwen3_next": {**LINEAR, **partial_rotary(0.5), "mlp_only_layers": [1]},
    "qwen3_5_text": {**LINEAR, **partial_rotary(0.5)},
    "qwen3_5_moe_text": {**LINEAR, **partial_rotary(0.5)},
    "deepseek_v2": {**MLA, "first_k_dense_replace": 1},
    "deepseek_v2:no_q_lora": {**MLA, "first_k_dense_replace": 1, "q_lora_rank": None},
    "deepseek_v3": {**MLA, "first_k_dense_replace": 1},
    "deepseek_v32": {**MLA, **MIXED_MLP},
    "glm": partial_rotary(0.5),
    "glm4": partial_rotary(0.5),
    "glm4_moe": {**partial_rotary(0.5), "first_k_dense_replace": 1},
    "glm4_moe_lite": {**MLA, **MIXED_MLP},
    "glm_moe_dsa": {**MLA, **MIXED_MLP},
    "gpt_oss": SLIDING,
    "gpt_oss:square": {**SLIDING, "intermediate_size": D_MODEL},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": D_MODEL, "ffn_hidden_size": 44, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "arcee": {},
    "apertus": {},
    "exaone4": SLIDING,
    "exaone_moe": {**SLIDING, **MIXED_MLP},
    "helium": {"head_dim": 8},
    "nemotron": {},
    "nemotron_h": {
        "layers_block_type": ["mamba", "moe", "attention", "mlp", "mamba"],
        "num_hidden_layers": 5,
        "mamba_num_heads": 6,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "ssm_state_size": 10,
        "chunk_size": 4,
        "moe_shared_expert_intermediate_size": 28,
    },
    "nemotron_h:latent": {
        "layers_block_type": ["mamba", "moe", "attention", "mlp"],
        "mamba_num_heads": 6,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "ssm_state_size": 10,
        "chunk_size": 4,
        "moe_shared_expert_intermediate_size": 28,
        "moe_latent_size": 24,
    },
    "mamba": {},
    "mamba:bias": {"use_bias": True},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    "rwkv": {},
    "recurrent_gemma": {
        "lru_width": 40,
        "block_types": ["recurrent", "recurrent", "attention"],
        **partial_rotary(0.5),
    },
    "xlstm": {},
    "bamba": {"attn_layer_indices": [1, 3], **partial_rotary(0.5)},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "use_mamba_kernels": False},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2, "chunk_size": 4, "use_mamba_kernels": False},
    "zamba2:adapters": {
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "chunk_size": 4,
        "use_mamba_kernels": False,
        "use_shared_attention_adapter": True,
        "adapter_rank": 6,
        "num_mem_blocks": 2,
        "use_mem_rope": True,
        "num_key_value_heads": 4,
    },
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 3,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
        "mamba_dt_rank": 5,
    },
    "jetmoe": {"kv_channels": 12},
    "lfm2": {
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 2},
    "minimax": {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "block_size": 4,
        "full_attn_alpha_factor": 1.3,
        "full_attn_beta_factor": 0.8,
        "linear_attn_alpha_factor": 0.9,
        "linear_attn_beta_factor": 1.2,
        "mlp_alpha_factor": 1.1,
        "mlp_beta_factor": 0.7,
    },
    "minimax_m2": partial_rotary(0.5),
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {},
    "ernie4_5": {},
    "ernie4_5_moe": {"moe_layer_start_index": 1},
    "seed_oss": {},
    "diffllama": {},
    "doge": {},
    "doge:moe": {"is_moe": True},
    "dots1": {"first_k_dense_replace": 1},
    "bitnet": {},
    "nanochat": {},
    "llama4_text": {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 52, "attention_chunk_size": 5},
    "biogpt": {},
    "xglm": {},
    "ctrl": {"dff": 44},
    "openai-gpt": {},
    "cwm": SLIDING,
    "mimo_v2_flash": {**SLIDING, **MIXED_MLP},
    "kimi_linear": {**MLA, **LINEAR, **MIXED_MLP, "linear_num_heads": 3, "linear_head_dim": 8},
    "longcat_flash": {
        **MLA,
        "num_layers": 2,
        "ffn_hidden_size": 44,
        "expert_ffn_hidden_size": 20,
        "zero_expert_num": 2,
    },
    "minicpm3": {**MLA, "dim_model_base": 32},
    "youtu": {**MLA, "pad_token_id": None},
    "afmoe": {},
    "solar_open": {},
    "modernbert-decoder": SLIDING,
    "internlm3": {},
    "hyperclovax": SCALED,
    "laguna": {**SLIDING, **MIXED_MLP},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 14},
    "hy_v3": MIXED_MLP,
    "flint": SLIDING,
    "mellum": {**SLIDING, **MIXED_MLP},
    "jais2": {},
    "aria_text": {},
    "axk1": {**MLA, **MIXED_MLP},
    "axk2": {**MLA, **MIXED_MLP, "gated_norm_rank": 6},
    "beam": {**SLIDING, **MIXED_MLP},
    "cohere_compass_text": {
        **SLIDING,
        "rope_parameters": {kind: mrope(2, 2, 2)["rope_parameters"] for kind in SLIDING["layer_types"]},
    },
    "cpmant": {"dim_head": 12, "dim_ff": 44, "prompt_length": 3, "prompt_types": 4, "segment_types": 4},
    "deepseek_v4": {"o_groups": 2, "o_lora_rank": 7},
    "dots3_note_text": {
        **MLA,
        **MIXED_MLP,
        "shared_experts_intermediate_size": 28,
        "swa_num_attention_heads": 3,
        "swa_num_key_value_heads": 3,
        "swa_q_lora_rank": 22,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 14,
        "swa_qk_nope_head_dim": 6,
        "swa_v_head_dim": 9,
    },
    "gemma4_unified_text": {**SLIDING, "global_head_dim": 16},
    "hrm_text": {"num_hidden_layers": 2, "head_dim": 8, "embedding_scale": 1.0},
    "hy_v4": {**MLA, **MIXED_MLP},
    "inkling_text": {
        "logits_mup_width_multiplier": 2.0,
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 1,
        "swa_head_dim": 14,
    },
    "inkling2_text": {"swa_num_attention_heads": 2, "swa_num_key_value_heads": 1, "swa_head_dim": 14},
    "iquestcoder": {},
    "kolibri1": SLIDING,
    "lfm3": {"layer_types": ["conv", "full_attention", "conv", "sliding_attention"]},
    "minimax_m3_vl_text": {},
    "phi4_multimodal": {},
    "qwen4_exp_text": {
        **LINEAR,
        **partial_rotary(0.5),
        "hc_lowrank": 6,
        "ple_layer_ids": [1],
        "ple_embed_dim": 24,
        "ngram_vocab_size_base": 50,
        "heads_per_ngram": 2,
        "split_ngram_parts": 4,
        "make_ngram_vocab_size_divisible_by": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "fuyu": {"text_config": {"model_type": "persimmon"}},
    "git": {},
    "xlnet": {"d_inner": 44},
    "bailing_hybrid": {**MLA, "first_k_dense_replace": 1, "layer_group_size": 2},
}


# Those that hold a text tower and others, by AutoModelForImageTextToText.
SIGLIP = {"vision_config": {"model_type": "siglip_vision_model"}}
MULTIMODAL: dict[str, dict[str, Any]] = {
    "gemma3": {"text_config": SLIDING, **SIGLIP, "mm_tokens_per_image": 4},
    "gemma4": {"text_config": ROWS["gemma4_text"], "audio_config": None},
    "gemma4_unified": {
        "text_config": ROWS["gemma4_text"],
        "audio_config": None,
        "vision_config": {"mm_embed_dim": 24, "output_proj_dims": 24},
    },
    "llama4": {
        "text_config": ROWS["llama4_text"],
        "vision_config": {"vision_output_dim": 24, "projector_input_dim": 24, "projector_output_dim": 24},
    },
    "mllama": {
        "text_config": {"cross_attention_layers": [1]},
        "vision_config": {
            "num_global_layers": 1,
            "vision_output_dim": 48,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1]],
            "max_num_tiles": 1,
        },
    },
    "qwen3_5": {"text_config": {**LINEAR, **partial_rotary(0.5)}},
    "qwen3_5_moe": {"text_config": {**LINEAR, **partial_rotary(0.5)}},
    "qwen4_exp": {"text_config": ROWS["qwen4_exp_text"]},
    "mistral3": {"text_config": {"model_type": "mistral"}, "vision_config": {"model_type": "pixtral"}},
    "mistral4": {
        **MLA,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        },
    },
    "qwen2_vl": {"text_config": mrope(2, 1, 1)},
    "qwen2_5_vl": {"text_config": mrope(2, 1, 1)},
    "qwen3_vl": {"text_config": mrope(2, 2, 2), "vision_config": {"deepstack_visual_indexes": [0]}},
    "qwen3_vl_moe": {"text_config": mrope(2, 2, 2), "vision_config": {"deepstack_visual_indexes": [0]}},
    "paligemma": {"text_config": {"model_type": "gemma"}, **SIGLIP},
    "paligemma:gemma2": {"text_config": {"model_type": "gemma2"}, **SIGLIP},
    "llava": {"text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip_vision_model"}},
    "llava_next": {
        "text_config": {"model_type": "mistral"},
        "vision_config": {"model_type": "clip_vision_model"},
    },
    "llava_onevision": {"text_config": {"model_type": "qwen2"}, **SIGLIP},
    "internvl": {
        "text_config": {"model_type": "qwen3"},
        "vision_config": {"image_size": [28, 28], "patch_size": [14, 14]},
    },
    "aria": {"vision_config": {"model_type": "idefics3_vision"}},
    "aya_vision": {"text_config": {"model_type": "cohere2"}, **SIGLIP},
    "cohere2_vision": {"text_config": {"model_type": "cohere2"}, **SIGLIP, "alignment_intermediate_size": 36},
    "smolvlm": {"text_config": {"model_type": "llama"}},
    "idefics3": {"text_config": {"model_type": "llama"}},
    "glm4v": {"text_config": mrope(2, 1, 1)},
    "glm4v_moe": {"text_config": {**mrope(2, 1, 1), "first_k_dense_replace": 1}},
    "lfm2_vl": {
        "projector_hidden_size": 36,
        "text_config": {"model_type": "lfm2", **ROWS["lfm2"]},
        "vision_config": {"model_type": "siglip2_vision_model"},
    },
    "kimi_k25": {"text_config": {"model_type": "deepseek_v3", **ROWS["deepseek_v3"]}},
    "exaone4_5": {"text_config": {"model_type": "exaone4", **SLIDING}},
    "ernie4_5_vl_moe": {"text_config": {**mrope(1, 1, 2), "moe_intermediate_size": [20, 16]}},
    "minimax_m3_vl": {"text_config": {}, "projector_hidden_size": 36},
    "chameleon": {
        "vocabulary_map": {"<image>": 90},
        "vq_config": {
            "base_channels": 32,
            "num_embeddings": 16,
            "embed_dim": 8,
            "latent_channels": 8,
            "resolution": 28,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
        },
    },
    "emu3": {
        "vocabulary_map": {"<image>": 90},
        "vq_config": {
            "base_channels": 32,
            "codebook_size": 16,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "hidden_size": 32,
        },
    },
    "got_ocr2": {"text_config": {"model_type": "qwen2"}},
    "idefics2": {"text_config": {"model_type": "mistral"}},
}


@dataclass(frozen=True)
class Specimen:
    """A model type and what its configuration changes from BASE (its towers' from TOWER);
    `multimodal` names the class that loads it.
    """

    model_type: str
    changes: dict[str, Any] = field(default_factory=dict)
    multimodal: bool = False

    @property
    def auto(self) -> type:
        return AutoModelForImageTextToText if self.multimodal else AutoModelForCausalLM


ZOO: dict[str, Specimen] = {label: Specimen(label.split(":")[0], row) for label, row in ROWS.items()} | {
    label: Specimen(label.split(":")[0], row, multimodal=True) for label, row in MULTIMODAL.items()
}

_ENCODER = "an encoder; its causal class only serves encoder-decoder pairs or a mask set by hand"
_DECODER = "the decoder of an encoder-decoder model; alone it has no trained use"
NOT_BUILT: dict[str, str] = {
    **dict.fromkeys(
        [
            "bert",
            "bert-generation",
            "big_bird",
            "camembert",
            "data2vec-text",
            "electra",
            "ernie",
            "megatron-bert",
            "reformer",
            "rembert",
            "roberta",
            "roberta-prelayernorm",
            "roc_bert",
            "roformer",
            "xlm",
            "xlm-roberta",
            "xlm-roberta-xl",
            "xmod",
        ],
        _ENCODER,
    ),
    **dict.fromkeys(
        [
            "bart",
            "bigbird_pegasus",
            "blenderbot",
            "blenderbot-small",
            "marian",
            "mbart",
            "mvp",
            "pegasus",
            "plbart",
            "prophetnet",
            "trocr",
            "whisper",
        ],
        _DECODER,
    ),
    **dict.fromkeys(
        ["moshi", "musicgen", "musicgen_melody", "moss_transcribe_diarize"],
        "speech or music: no text stream to read",
    ),
    **dict.fromkeys(
        ["gemma4_assistant", "gemma4_unified_assistant"],
        "drafts from another model's stream; cannot run alone",
    ),
    "blt": "bytes in patches: three stacks, an entropy model for the patches and hashed embeddings",
    "gemma3n": "its vision tower needs timm; gemma3n_text has the same text tower",
    "dots3_note": "its towers have no small form (layers named one by one); dots3_note_text has the same text tower",
    "gpt-sw3": "gpt2 by another name; saved, it is gpt2",
    "internlm2": "remote code only, transformers has no such type",
    "vision-encoder-decoder": _DECODER,
}


def _changes(config_class: type, base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` as far as the class has such a field, under its own name for it, then `changes`;
    sub-configurations likewise.
    """
    renamed = getattr(config_class, "attribute_map", {})
    fields = {f.name for f in dataclasses.fields(config_class)}
    # Some classes rename a field to a name that is no field.
    known = {name if (name := renamed.get(key, key)) in fields else key: value for key, value in base.items()}
    every = {key: value for key, value in known.items() if key in fields} | changes
    for key, sub_class in config_class.sub_configs.items():
        sub = every.get(key, {})
        if sub is not None:
            kind = CONFIG_MAPPING[sub["model_type"]] if "model_type" in sub else sub_class
            every[key] = _changes(kind, BASE if key == "text_config" else TOWER, sub)
    return every


def zoo_config(label: str) -> Any:
    specimen = ZOO[label]
    changes = _changes(CONFIG_MAPPING[specimen.model_type], BASE, specimen.changes)
    return AutoConfig.for_model(specimen.model_type, **changes, attn_implementation="eager")


# How far these may move from where the model starts them.
AROUND_THEIR_START = {"A_log": 0.2, "dt_bias": 0.2, "D": 0.3, "balancing_biases": 0.0}


def _spread(owner: nn.Module, name: str, value: Tensor) -> float:
    if isinstance(owner, nn.Embedding) or "embed" in name:
        return 1.0
    if isinstance(owner, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return value[0].numel() ** -0.5
    return value.shape[0 if type(owner).__name__ == "Conv1D" else -1] ** -0.5


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Matrices anew; vectors, scalars and state-space rates around what the model's own
    initialisation gave them.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = model.state_dict().keys()
    buffers = [(name, value) for name, value in model.named_buffers() if name in kept]
    for full, value in [*model.named_parameters(), *buffers]:
        if not value.is_floating_point():
            continue
        owner, _, name = full.rpartition(".")
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1 and name not in AROUND_THEIR_START:
            value.copy_(noise * _spread(model.get_submodule(owner), full, value))
        elif value.isfinite().all():
            value.add_(noise * AROUND_THEIR_START.get(name, 0.5))


def zoo_model(label: str, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZOO[label].auto.from_config(zoo_config(label), dtype=torch.float32).float().eval()
    randomise(model, seed)
    return model


def zoo_folder(label: str, path: Path) -> Path:
    zoo_model(label).save_pretrained(path)
    return path


def zoo_load(label: str, path: Path) -> PreTrainedModel:
    return ZOO[label].auto.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def zoo_tokens(batch: int = 3, length: int = 7, seed: int = 1) -> Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def zoo_logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=zoo_tokens(), use_cache=False).logits


def disk_layout(label: str, path: Path) -> dict[str, list[tuple[int, ...]]]:
    """Tensor names on disk, numbers collapsed to N, and the shapes found under each."""
    layout: dict[str, list[tuple[int, ...]]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                shapes = layout.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "N", name), [])
                shape = tuple(tensors.get_slice(name).get_shape())
                if shape not in shapes:
                    shapes.append(shape)
    return layout


def main(labels: list[str]) -> None:
    """The checkpoint layout of every label: what a table of writers has to name."""
    for label in labels or ZOO:
        with tempfile.TemporaryDirectory() as folder:
            layout = disk_layout(label, zoo_folder(label, Path(folder)))
            live = {re.sub(r"(?<=\.)\d+(?=\.|$)", "N", name) for name in zoo_model(label).state_dict()}
        sys.stdout.write(f"## {label}\n")
        for name, shapes in layout.items():
            sys.stdout.write(
                f"  {name} {' '.join(map(str, shapes))}{'' if name in live else '  (no such live name)'}\n"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
