"""Dense transformers: attention and one MLP a layer."""

from __future__ import annotations

from dataclasses import replace

from vectomy.architecture.families.common import (
    ATTENTION,
    ATTENTION_BIAS,
    BOTH_BIASES,
    EMBEDDING,
    LLAMA,
    PARALLEL,
    PERSIMMON,
    TIED,
    embedding_writer,
    position_writers,
)
from vectomy.architecture.families.spec import Family, Norm, WriterSpec

__all__ = ["DENSE"]

GPT2 = Family(
    "transformer.h",
    (WriterSpec("attention", "attn.c_proj", axis=1), WriterSpec("mlp", "mlp.c_proj", axis=1)),
    position_writers("transformer.wte", "transformer.wpe"),
    mid="ln_2",
    tied_by_default=True,
    # The model without its head is stored without the prefix.
    layouts=((), (("transformer.", ""),)),
    names={"hidden_size": "n_embd", "num_hidden_layers": "n_layer"},
)

GPTJ = Family(
    "transformer.h",
    (WriterSpec("attention", "attn.out_proj"), WriterSpec("mlp", "mlp.fc_out")),
    embedding_writer("transformer.wte"),
    mid=None,
    names=GPT2.names,
)

NEOX = Family(
    "gpt_neox.layers",
    (WriterSpec("attention", "attention.dense"), WriterSpec("mlp", "mlp.dense_4h_to_h")),
    embedding_writer("gpt_neox.embed_in"),
    mid=None,
    layouts=((("lm_head", "embed_out"),),),
)

OPT = Family(
    "model.decoder.layers",
    (WriterSpec("attention", "self_attn.out_proj"), WriterSpec("mlp", "fc2")),
    position_writers("model.decoder.embed_tokens", "model.decoder.embed_positions"),
    # Its norm between attention and MLP reads the stream as tokens alone, without an axis for the
    # batch.
    mid=None,
    tied_by_default=True,
    layouts=((), (("model.decoder.", "decoder."),)),
    refused_if=(
        ("do_layer_norm_before", False, "its blocks put a norm on the stream itself"),
        ("word_embed_proj_dim", ..., "its embedding is narrower than the stream and is projected up"),
    ),
)

FALCON = Family(
    "transformer.h",
    (WriterSpec("attention", "self_attention.dense"), WriterSpec("mlp", "mlp.dense_4h_to_h")),
    embedding_writer("transformer.word_embeddings"),
    mid=None,
    tied_by_default=True,
)

BLOOM = replace(
    FALCON,
    embeddings=(
        WriterSpec(
            "embedding",
            "transformer.word_embeddings",
            axis=1,
            norms=(Norm("transformer.word_embeddings_layernorm", centred=True),),
        ),
    ),
    mid="post_attention_layernorm",
    layouts=((), (("transformer.", ""),)),
    names={"num_hidden_layers": "n_layer"},
    refused_if=(
        (
            "apply_residual_connection_post_layernorm",
            True,
            "it takes its residual behind a norm, on the stream itself",
        ),
    ),
)

DENSE: dict[str, Family] = {
    # Dense, sequential
    **dict.fromkeys(
        [
            "mistral",
            "ministral",
            "ministral3",
            "qwen2",
            "olmo",
            "arcee",
            "apertus",
            "helium",
            "hunyuan_v1_dense",
            "seed_oss",
            "diffllama",
            "bitnet",
            "cwm",
            "internlm3",
            "jais2",
            "iquestcoder",
            "glm",
        ],
        LLAMA,
    ),
    **dict.fromkeys(["smollm3", "gemma", "ernie4_5", "youtu"], TIED),
    "vaultgemma": replace(TIED, mid="pre_feedforward_layernorm"),
    "apertus": replace(LLAMA, mid="feedforward_layernorm"),
    "llama": replace(LLAMA, bias_flags=BOTH_BIASES),
    "qwen3": replace(LLAMA, bias_flags={"attention": ATTENTION_BIAS}),
    "nemotron": LLAMA,
    "phi3": LLAMA,
    "minicpm3": TIED,
    "granite": replace(LLAMA, bias_flags=BOTH_BIASES),
    "granite_swa": TIED,
    "starcoder2": replace(TIED, slots=(ATTENTION, WriterSpec("mlp", "mlp.c_proj"))),
    "persimmon": PERSIMMON,
    "nanochat": replace(
        LLAMA,
        slots=(ATTENTION, WriterSpec("mlp", "mlp.fc2")),
        # One module without weights serves as the embedding's norm and as the last one.
        embeddings=(replace(EMBEDDING, norms=(Norm("model.norm", learned=False),)),),
        mid=None,
    ),
    # Attention and MLP side by side
    "stablelm": PARALLEL,
    "cohere": replace(PARALLEL, tied_by_default=True),
    "cohere2": replace(PARALLEL, tied_by_default=True),
    "cohere_compass_text": replace(PARALLEL, tied_by_default=True),
    "phi": replace(
        PARALLEL, slots=(WriterSpec("attention", "self_attn.dense"), WriterSpec("mlp", "mlp.fc2"))
    ),
    "gptj": GPTJ,
    "codegen": GPTJ,
    "gpt_neox": NEOX,
    "gpt_neox_japanese": Family(
        "gpt_neox_japanese.layers",
        (
            WriterSpec("attention", "attention.dense", bias="attention.dense_bias", loose_bias=True),
            WriterSpec("mlp", "mlp.dense_4h_to_h"),
        ),
        embedding_writer("gpt_neox_japanese.embed_in"),
        head="embed_out",
        mid="post_attention_layernorm",
        tied_by_default=True,
    ),
    "falcon": FALCON,
    # Older shapes, with learned positions
    "gpt2": GPT2,
    "gpt_bigcode": replace(
        GPT2, slots=(WriterSpec("attention", "attn.c_proj"), WriterSpec("mlp", "mlp.c_proj"))
    ),
    "gpt_neo": replace(
        GPT2,
        slots=(WriterSpec("attention", "attn.attention.out_proj"), WriterSpec("mlp", "mlp.c_proj")),
        names={"num_hidden_layers": "num_layers"},
    ),
    "opt": OPT,
    "bloom": BLOOM,
    "mpt": Family(
        "transformer.blocks",
        (WriterSpec("attention", "attn.out_proj"), WriterSpec("mlp", "ffn.down_proj")),
        embedding_writer("transformer.wte"),
        mid="norm_2",
        tied_by_default=True,
        names={"hidden_size": "d_model", "num_hidden_layers": "n_layers"},
    ),
    "biogpt": Family(
        "biogpt.layers",
        (WriterSpec("attention", "self_attn.out_proj"), WriterSpec("mlp", "fc2")),
        position_writers("biogpt.embed_tokens", "biogpt.embed_positions"),
        head="output_projection",
        mid="final_layer_norm",
        tied_by_default=True,
    ),
    "modernbert-decoder": Family(
        "model.layers",
        (WriterSpec("attention", "attn.Wo"), WriterSpec("mlp", "mlp.Wo")),
        (
            WriterSpec(
                "embedding",
                "model.embeddings.tok_embeddings",
                axis=1,
                norms=(Norm("model.embeddings.norm", centred=True),),
            ),
        ),
        head="decoder",
        mid="mlp_norm",
        tied_by_default=True,
    ),
}
"""By `model_type` of config.json."""
