"""Writers and families that several tables share."""

from __future__ import annotations

from dataclasses import replace

from vectomy.architecture.families.spec import BiasFlag, Family, Norm, WriterSpec
from vectomy.core.component import Component

__all__ = [
    "ATTENTION",
    "ATTENTION_BIAS",
    "BOTH_BIASES",
    "EMBEDDING",
    "EXPERTS",
    "LINEAR",
    "LLAMA",
    "MAMBA",
    "MLP",
    "MOE",
    "PARALLEL",
    "PERSIMMON",
    "SHARED",
    "SHARED_ONE",
    "TIED",
    "W2_EXPERTS",
    "embedding_writer",
    "expert_writer",
    "position_writers",
    "shared_expert_writer",
    "with_post_norms",
]

EMBEDDING = WriterSpec("embedding", "model.embed_tokens", axis=1)

ATTENTION = WriterSpec("attention", "self_attn.o_proj")

MLP = WriterSpec("mlp", "mlp.down_proj")


def expert_writer(
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


def shared_expert_writer(module: str, *stored: str, norms: tuple[Norm, ...] = ()) -> WriterSpec:
    return WriterSpec("shared_experts", module, norms=norms, stored=tuple((name, 0) for name in stored))


def embedding_writer(module: str) -> tuple[WriterSpec, ...]:
    return (WriterSpec("embedding", module, axis=1),)


def position_writers(embedding: str, position: str) -> tuple[WriterSpec, ...]:
    return WriterSpec("embedding", embedding, axis=1), WriterSpec("position", position, axis=1)


EXPERTS = expert_writer()

W2_EXPERTS = expert_writer("mlp.experts", "block_sparse_moe.experts.{expert}.w2.weight")

SHARED = shared_expert_writer("mlp.shared_experts.down_proj")

SHARED_ONE = shared_expert_writer("mlp.shared_expert.down_proj")

LINEAR = WriterSpec("linear_attention", "linear_attn.out_proj", functional=True)

MAMBA = WriterSpec("ssm", "mamba.out_proj", functional=True)

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

PERSIMMON = replace(
    LLAMA, slots=(WriterSpec("attention", "self_attn.dense"), WriterSpec("mlp", "mlp.dense_4h_to_h"))
)


def with_post_norms(
    attention: str, mlp: str, *, offset: float = 0.0, mid: str | None = "pre_feedforward_layernorm"
) -> Family:
    """A norm behind the attention and behind the MLP, as in Gemma 2."""
    after, last = (Norm(attention, offset),), (Norm(mlp, offset),)
    return replace(LLAMA, slots=(replace(ATTENTION, norms=after), replace(MLP, norms=last)), mid=mid)
