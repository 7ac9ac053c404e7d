"""Model families as data: what writes to the residual stream, under which names, and what stands in
between.

Drawn up with probe.py on tiny models of every type and read against the modeling files of
transformers 5.23; tests/architecture/test_families.py holds the two to each other. To add a type: a
row here. What a block holds beside its writers has to be named in readers.py, or the model is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vectomy.core.types import Component

__all__ = ["FAMILIES", "REFUSED", "BiasFlag", "Family", "Layout", "Norm", "WriterSpec", "multimodal"]


@dataclass(frozen=True)
class Norm:
    """A norm (or learned scale) between a writer and the stream, relative to the block."""

    module: str
    offset: float = 0.0
    """The gain is the stored weight plus this (Gemma stores gain - 1)."""
    centred: bool = False
    """It takes the mean of its input out (LayerNorm)."""
    learned: bool = True
    """It has a weight; a norm without one has gain 1."""
    optional: bool = False
    """Only some layers or some sizes have it; where its weight is missing, nothing stands there."""
    stored: tuple[str, ...] = ()
    """Other names under which checkpoints hold it."""


@dataclass(frozen=True)
class WriterSpec:
    """One writer of a block, or of what comes before the blocks. All names are relative to the
    block (or absolute).
    """

    component: Component
    module: str
    """The live module whose output goes to the stream; that of a fused parameter is the module that
    holds it.
    """
    weight: str = ""
    """The live parameter; `module`.weight unless said."""
    bias: str = ""
    """Its bias, where there is one; `module`.bias unless said."""
    axis: int = 0
    """Which axis of the live parameter is the stream's: 0 of nn.Linear, 1 of embeddings and GPT-2's
    Conv1D.
    """
    norms: tuple[Norm, ...] = ()
    """What its output passes, in that order."""
    stored: tuple[tuple[str, int], ...] = ()
    """Other names under which checkpoints hold it, each with its stream axis; {expert} stands for a
    number.
    """
    stored_bias: tuple[str, ...] = ()
    loose_bias: bool = False
    """The bias is added behind the module, not by it."""
    unless: str = ""
    """It is no writer in a layer that has this module."""
    flat: bool = False
    """Experts stand behind one another on the axis that is not the stream's."""
    functional: bool = False
    """Fast kernels take its weight without calling the module, so hooks on the module would miss
    it.
    """

    @property
    def live_weight(self) -> str:
        return self.weight or f"{self.module}.weight"

    @property
    def live_bias(self) -> str:
        return self.bias or f"{self.module}.bias"


@dataclass(frozen=True)
class BiasFlag:
    """A key of config.json that gives several modules of every block a bias at once, the writer's
    among them.
    """

    key: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    blocks: str
    slots: tuple[WriterSpec, ...]
    """Writers of a block, in the order in which they write."""
    embeddings: tuple[WriterSpec, ...]
    """Writers in front of the first block."""
    head: str = "lm_head"
    mid: str | None = "post_attention_layernorm"
    """The module of a block that reads the stream between attention and MLP (resid_mid); None where
    both read the same.
    """
    single: bool = False
    """A layer may have one writer alone; otherwise one that mixes tokens and one that does not."""
    reads: tuple[str, ...] = ()
    """Tensors of a block that only read, beside those that readers.py knows for all."""
    outside: tuple[str, ...] = ()
    """Tensors outside of blocks that do not write, beside those that readers.py knows for all."""
    layouts: tuple[tuple[tuple[str, str], ...], ...] = ((),)
    """Ways to name the same tensors in a checkpoint: each a list of (live prefix, stored prefix).
    """
    nested: str | None = None
    """Where config.json keeps the text model's sizes, if not at the top."""
    around: str | None = None
    """The live prefix of a text model whose family is the one that config.json names; `slots` are
    the usual one's.
    """
    towers: bool = False
    """There are other parts (vision, audio) that write at the places of their own tokens."""
    tied_by_default: bool = False
    """What transformers takes for a config.json that does not say `tie_word_embeddings`."""
    ties_more: bool = False
    """`tie_word_embeddings` also ties weights between blocks, so that a head cannot be untied
    alone.
    """
    switches: Mapping[Component, BiasFlag] = field(default_factory=dict)
    """Where a writer without a bias can be given one, to hold a vector that is added."""
    refused_if: tuple[tuple[str, object, str], ...] = ()
    """(key, value, reason): configurations of the type that no edit can follow."""
    names: Mapping[str, str] = field(default_factory=dict)
    """config.json's names of sizes, where they differ: hidden_size, num_hidden_layers, vocab_size.
    """


# Writers that many families share

EMBEDDING = WriterSpec("embedding", "model.embed_tokens", axis=1)
ATTENTION = WriterSpec("attention", "self_attn.o_proj")
MLP = WriterSpec("mlp", "mlp.down_proj")


def experts(
    module: str = "mlp.experts", *stored: str, norms: tuple[Norm, ...] = (), down: str = "down_proj"
) -> WriterSpec:
    """Experts that transformers fuses into one parameter [expert, d_model, d_ff], stored fused or
    one by one.
    """
    singly = stored or (f"{module}.{{expert}}.{down}.weight",)
    return WriterSpec(
        "experts",
        module,
        f"{module}.{down}",
        f"{module}.{down}_bias",
        axis=1,
        norms=norms,
        stored=tuple((name, 0) for name in singly),
    )


def shared(module: str, *stored: str, norms: tuple[Norm, ...] = ()) -> WriterSpec:
    return WriterSpec("shared_experts", module, norms=norms, stored=tuple((name, 0) for name in stored))


def embedded(module: str) -> tuple[WriterSpec, ...]:
    return (WriterSpec("embedding", module, axis=1),)


def positioned(embedding: str, position: str) -> tuple[WriterSpec, ...]:
    return WriterSpec("embedding", embedding, axis=1), WriterSpec("position", position, axis=1)


EXPERTS = experts()
W2_EXPERTS = experts("mlp.experts", "block_sparse_moe.experts.{expert}.w2.weight")
SHARED = shared("mlp.shared_experts.down_proj")
SHARED_ONE = shared("mlp.shared_expert.down_proj")
LINEAR = WriterSpec("linear_attention", "linear_attn.out_proj", functional=True)
MAMBA = WriterSpec("ssm", "mamba.out_proj", functional=True)

# Families

LLAMA = Family("model.layers", (ATTENTION, MLP), (EMBEDDING,))
ATTENTION_BIAS = BiasFlag(
    "attention_bias", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
)
MLP_BIAS = BiasFlag("mlp_bias", ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"))
BOTH_BIASES: dict[Component, BiasFlag] = {"attention": ATTENTION_BIAS, "mlp": MLP_BIAS}
TIED = replace(LLAMA, tied_by_default=True)
PARALLEL = replace(LLAMA, mid=None)
# Dense and sparse layers, with and without shared experts: a layer has what it has.
MOE = replace(LLAMA, slots=(ATTENTION, MLP, EXPERTS, SHARED))
MOE_ONE = replace(LLAMA, slots=(ATTENTION, MLP, EXPERTS, SHARED_ONE))
W2_MOE = replace(LLAMA, slots=(ATTENTION, W2_EXPERTS))


def sandwich(
    attention: str, mlp: str, *, offset: float = 0.0, mid: str | None = "pre_feedforward_layernorm"
) -> Family:
    """A norm behind the attention and behind the MLP, as in Gemma 2."""
    after, last = (Norm(attention, offset),), (Norm(mlp, offset),)
    return replace(LLAMA, slots=(replace(ATTENTION, norms=after), replace(MLP, norms=last)), mid=mid)


GEMMA2 = replace(
    sandwich("post_attention_layernorm", "post_feedforward_layernorm", offset=1.0), tied_by_default=True
)
# The MLP reads the stream itself; the norm comes behind it.
OLMO2 = sandwich("post_attention_layernorm", "post_feedforward_layernorm", mid="mlp")
GLM4 = sandwich("post_self_attn_layernorm", "post_mlp_layernorm", mid="post_attention_layernorm")
LAST = Norm("post_feedforward_layernorm")
GEMMA4 = replace(
    LLAMA,
    slots=(
        replace(ATTENTION, norms=(Norm("post_attention_layernorm"),)),
        replace(MLP, norms=(Norm("post_feedforward_layernorm_1", optional=True), LAST)),
        experts("experts", norms=(Norm("post_feedforward_layernorm_2"), LAST)),
        WriterSpec("per_layer", "per_layer_projection", norms=(Norm("post_per_layer_input_norm"),)),
    ),
    mid="pre_feedforward_layernorm",
    tied_by_default=True,
)
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
GPT2 = Family(
    "transformer.h",
    (WriterSpec("attention", "attn.c_proj", axis=1), WriterSpec("mlp", "mlp.c_proj", axis=1)),
    positioned("transformer.wte", "transformer.wpe"),
    mid="ln_2",
    tied_by_default=True,
    # The model without its head is stored without the prefix.
    layouts=((), (("transformer.", ""),)),
    names={"hidden_size": "n_embd", "num_hidden_layers": "n_layer"},
)
GPTJ = Family(
    "transformer.h",
    (WriterSpec("attention", "attn.out_proj"), WriterSpec("mlp", "mlp.fc_out")),
    embedded("transformer.wte"),
    mid=None,
    names=GPT2.names,
)
NEOX = Family(
    "gpt_neox.layers",
    (WriterSpec("attention", "attention.dense"), WriterSpec("mlp", "mlp.dense_4h_to_h")),
    embedded("gpt_neox.embed_in"),
    mid=None,
    layouts=((("lm_head", "embed_out"),),),
)
OPT = Family(
    "model.decoder.layers",
    (WriterSpec("attention", "self_attn.out_proj"), WriterSpec("mlp", "fc2")),
    positioned("model.decoder.embed_tokens", "model.decoder.embed_positions"),
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
    embedded("transformer.word_embeddings"),
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
BACKBONE = Family(
    "backbone.layers",
    (WriterSpec("ssm", "mixer.out_proj", functional=True),),
    embedded("backbone.embeddings"),
    mid=None,
    single=True,
)
QWEN35 = replace(LLAMA, slots=(ATTENTION, LINEAR, MLP))
QWEN_NEXT = replace(LLAMA, slots=(ATTENTION, LINEAR, MLP, EXPERTS, SHARED_ONE))
GRANITE_EXPERTS = replace(
    experts("block_sparse_moe.experts"), stored=(("block_sparse_moe.output_linear.weight", 1),)
)
GRANITE_MOE = replace(
    LLAMA,
    slots=(ATTENTION, MAMBA, GRANITE_EXPERTS, shared("shared_mlp.output_linear")),
)
BAMBA = replace(
    LLAMA, slots=(ATTENTION, MAMBA, WriterSpec("mlp", "feed_forward.down_proj")), mid="pre_ff_layernorm"
)
LFM2 = replace(
    LLAMA,
    slots=(
        WriterSpec("conv", "conv.out_proj", functional=True),
        WriterSpec("attention", "self_attn.out_proj"),
        WriterSpec("mlp", "feed_forward.w2"),
        experts("feed_forward.experts", "feed_forward.experts.{expert}.w2.weight"),
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
        replace(experts("mixer.experts"), unless="mixer.fc2_latent_proj"),
        WriterSpec("experts", "mixer.fc2_latent_proj"),
        shared("mixer.shared_experts.down_proj"),
    ),
    embeddings=embedded("model.embeddings"),
    mid=None,
    single=True,
    layouts=((("model.", "backbone."),), ()),
    # Experts that work on a narrower vector write through fc2_latent_proj.
    reads=("mixer.experts.*",),
)
PERSIMMON = replace(
    LLAMA, slots=(WriterSpec("attention", "self_attn.dense"), WriterSpec("mlp", "mlp.dense_4h_to_h"))
)


Layout = tuple[tuple[str, str], ...]


def multimodal(
    family: Family, live: str = "model.language_model", *layouts: Layout, around: bool = False
) -> Family:
    """The text model of `family` under the prefix `live`, beside parts for images or sound.

    `around`: the text model is of the family that config.json names, and `family` is what it is if
    it names none.
    """

    def moved(name: str) -> str:
        return name.replace("model.", f"{live}.", 1)

    embeddings = (
        replace(
            slot,
            module=moved(slot.module),
            weight=moved(slot.weight),
            bias=moved(slot.bias),
            norms=tuple(replace(norm, module=moved(norm.module)) for norm in slot.norms),
        )
        for slot in family.embeddings
    )
    return replace(
        family,
        blocks=moved(family.blocks),
        embeddings=tuple(embeddings),
        layouts=(*layouts, ()),
        nested="text_config",
        around=live if around else None,
        towers=True,
    )


# As these models were first stored.
OUTSIDE = (("model.language_model.", "language_model.model."), ("lm_head", "language_model.lm_head"))
FLAT = (("model.language_model.", "model."),)
AROUND = multimodal(LLAMA, "model.language_model", OUTSIDE, around=True)

FAMILIES: dict[str, Family] = {
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
    "llama": replace(LLAMA, switches=BOTH_BIASES),
    "qwen3": replace(LLAMA, switches={"attention": ATTENTION_BIAS}),
    "nemotron": LLAMA,
    "phi3": LLAMA,
    "minicpm3": TIED,
    "granite": replace(LLAMA, switches=BOTH_BIASES),
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
        embedded("gpt_neox_japanese.embed_in"),
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
        embedded("transformer.wte"),
        mid="norm_2",
        tied_by_default=True,
        names={"hidden_size": "d_model", "num_hidden_layers": "n_layers"},
    ),
    "biogpt": Family(
        "biogpt.layers",
        (WriterSpec("attention", "self_attn.out_proj"), WriterSpec("mlp", "fc2")),
        positioned("biogpt.embed_tokens", "biogpt.embed_positions"),
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
    # Norms between the writers and the stream
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
    # Mixtures of experts
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
    "hunyuan_v1_moe": replace(MOE, slots=(ATTENTION, EXPERTS, shared("mlp.shared_mlp.down_proj"))),
    "hy_v3": replace(
        MOE,
        slots=(
            ATTENTION,
            MLP,
            EXPERTS,
            shared("mlp.shared_experts.down_proj", "mlp.shared_mlp.down_proj.weight"),
        ),
    ),
    "laguna": replace(
        MOE,
        slots=(
            ATTENTION,
            MLP,
            EXPERTS,
            shared("mlp.shared_experts.down_proj", "mlp.shared_expert.down_proj.weight"),
        ),
    ),
    "kimi_linear": replace(
        MOE,
        slots=(
            ATTENTION,
            replace(MLP, stored=(("block_sparse_moe.down_proj.weight", 0),)),
            W2_EXPERTS,
            shared("mlp.shared_experts.down_proj", "block_sparse_moe.shared_experts.down_proj.weight"),
        ),
    ),
    "minimax_m3_vl_text": replace(
        MOE,
        slots=(
            ATTENTION,
            MLP,
            W2_EXPERTS,
            shared("mlp.shared_experts.down_proj", "block_sparse_moe.shared_experts.down_proj.weight"),
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
            replace(experts("feed_forward.experts"), axis=2, stored=()),
            shared("feed_forward.shared_expert.down_proj"),
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
        embedded("transformer.wte"),
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
    # State space, linear attention, convolution, and hybrids
    "mamba": replace(BACKBONE, tied_by_default=True),
    "falcon_mamba": replace(BACKBONE, tied_by_default=True),
    "mamba2": BACKBONE,
    "xlstm": Family(
        "backbone.blocks",
        (WriterSpec("ssm", "mlstm_layer.out_proj", functional=True), WriterSpec("mlp", "ffn.proj_down")),
        embedded("backbone.embeddings"),
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
    "jamba": replace(BAMBA, slots=(*BAMBA.slots, experts("feed_forward.experts"))),
    "lfm2": LFM2,
    "lfm2_moe": LFM2,
    "lfm3": LFM3,
    "zamba": ZAMBA,
    "zamba2": ZAMBA,
    "nemotron_h": NEMOTRON_H,
    # Text models beside other towers
    "gemma3": multimodal(GEMMA2, "model.language_model", OUTSIDE),
    "gemma4": multimodal(GEMMA4),
    "gemma4_unified": multimodal(GEMMA4),
    "exaone4_5": multimodal(OLMO2),
    "llama4": multimodal(
        replace(
            LLAMA,
            slots=(
                ATTENTION,
                WriterSpec("mlp", "feed_forward.down_proj"),
                replace(experts("feed_forward.experts"), axis=2, stored=()),
                shared("feed_forward.shared_expert.down_proj"),
            ),
            head="language_model.lm_head",
        ),
        "language_model.model",
    ),
    "qwen3_5": multimodal(QWEN35),
    "qwen3_5_moe": multimodal(QWEN_NEXT),
    "qwen2_vl": multimodal(LLAMA, "model.language_model", FLAT),
    "qwen2_5_vl": multimodal(LLAMA, "model.language_model", FLAT),
    "qwen3_vl": multimodal(LLAMA),
    "qwen3_vl_moe": multimodal(replace(LLAMA, slots=(ATTENTION, MLP, EXPERTS))),
    **dict.fromkeys(
        [
            "mistral3",
            "llava",
            "llava_next",
            "llava_onevision",
            "internvl",
            "aya_vision",
            "got_ocr2",
            "paligemma",
            "aria",
        ],
        AROUND,
    ),
    "minimax_m3_vl": AROUND,
    "kimi_k25": multimodal(
        MOE,
        "model.language_model",
        (("model.language_model.layers.", "language_model.model.blocks."), *OUTSIDE),
        OUTSIDE,
    ),
    "emu3": multimodal(
        LLAMA,
        "model.text_model",
        (("model.text_model.", "text_model.model."), ("lm_head", "text_model.lm_head")),
    ),
    "phi4_multimodal": replace(LLAMA, towers=True),
    "cohere2_vision": multimodal(PARALLEL),
    "fuyu": multimodal(PERSIMMON, "model.language_model", OUTSIDE),
    "glm4v": multimodal(GLM4),
    "glm4v_moe": multimodal(MOE),
    "lfm2_vl": multimodal(LFM2),
    **dict.fromkeys(["smolvlm", "idefics3", "idefics2"], multimodal(LLAMA, "model.text_model", around=True)),
    "chameleon": replace(LLAMA, towers=True),
}
"""By `model_type` of config.json."""

_ON_STREAM = "a norm or gate stands on the stream itself, so taking a direction out of what is written does not take it out of the stream"
_FIXED = "it adds a fixed position encoding that no weight holds"

REFUSED: dict[str, str] = {
    "rwkv": "its channel mixing multiplies what it writes by a gate as wide as the stream",
    "minimax": _ON_STREAM,
    "doge": _ON_STREAM,
    "openai-gpt": _ON_STREAM,
    "xlnet": _ON_STREAM,
    "git": _ON_STREAM,
    "zaya": "learned scales as wide as the stream stand on the stream itself",
    "xglm": _FIXED,
    "ctrl": _FIXED,
    "longcat_flash": "its identity experts write their normed input back to the stream, which no weight holds",
    "gemma3n": "it keeps four streams and mixes them between blocks (AltUp)",
    "gemma3n_text": "it keeps four streams and mixes them between blocks (AltUp)",
    "deepseek_v4": "it keeps several streams and mixes them in every block (hyper-connections)",
    "hy_v4": "it keeps several streams and mixes them in every block",
    "qwen4_exp": "it keeps several streams and mixes them in every block (hyper-connections)",
    "qwen4_exp_text": "it keeps several streams and mixes them in every block (hyper-connections)",
    "ernie4_5_vl_moe": "its blocks hold experts for images beside those for text, and text never reaches them",
    "cpmant": "it puts vectors of its own in front of the text, so that places in its stream are not those of the tokens",
    "hrm_text": "it runs the same blocks several times over streams of its own",
    "inkling_text": "a convolution stands between its writers and the stream",
    "inkling2_text": _ON_STREAM,
    "mllama": "its cross-attention layers are gated by what images say, and are skipped without one",
}
"""Types that are known and cannot be edited exactly, with the reason."""
