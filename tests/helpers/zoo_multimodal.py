"""Configurations of the models of the zoo with a vision or audio tower beside their text model."""

from __future__ import annotations

from typing import Any

from zoo_text import D_MODEL, LINEAR, MLA, ROWS, SLIDING, mrope, partial_rotary

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
