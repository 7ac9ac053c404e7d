"""Text models with parts for images or sound beside them."""

from __future__ import annotations

from dataclasses import replace

from vectomy.architecture.families.common import (
    ATTENTION,
    EXPERTS,
    LLAMA,
    MLP,
    MOE,
    PARALLEL,
    PERSIMMON,
    expert_writer,
    shared_expert_writer,
)
from vectomy.architecture.families.hybrid import LFM2, QWEN35, QWEN_NEXT
from vectomy.architecture.families.post_norm import GEMMA2, GEMMA4, GLM4, OLMO2
from vectomy.architecture.families.spec import Family, Layout, WriterSpec

__all__ = ["MULTIMODAL", "wrap_text_model"]


def wrap_text_model(
    family: Family, live: str = "model.language_model", *layouts: Layout, wraps_text_model: bool = False
) -> Family:
    """The text model of `family` under the prefix `live`, in a model of several modalities.

    With `wraps_text_model` the text model has the family that config.json names; `family` is the
    default.
    """

    def move(name: str) -> str:
        return name.replace("model.", f"{live}.", 1)

    embeddings = (
        replace(
            slot,
            module=move(slot.module),
            weight=move(slot.weight),
            bias=move(slot.bias),
            norms=tuple(replace(norm, module=move(norm.module)) for norm in slot.norms),
        )
        for slot in family.embeddings
    )
    return replace(
        family,
        blocks=move(family.blocks),
        embeddings=tuple(embeddings),
        layouts=(*layouts, ()),
        nested="text_config",
        wraps_text_model=live if wraps_text_model else None,
        multimodal=True,
    )


# As these models were first stored.
OUTSIDE = (("model.language_model.", "language_model.model."), ("lm_head", "language_model.lm_head"))

FLAT = (("model.language_model.", "model."),)

AROUND = wrap_text_model(LLAMA, "model.language_model", OUTSIDE, wraps_text_model=True)

MULTIMODAL: dict[str, Family] = {
    "gemma3": wrap_text_model(GEMMA2, "model.language_model", OUTSIDE),
    "gemma4": wrap_text_model(GEMMA4),
    "gemma4_unified": wrap_text_model(GEMMA4),
    "exaone4_5": wrap_text_model(OLMO2),
    "llama4": wrap_text_model(
        replace(
            LLAMA,
            slots=(
                ATTENTION,
                WriterSpec("mlp", "feed_forward.down_proj"),
                replace(expert_writer("feed_forward.experts"), axis=2, stored=()),
                shared_expert_writer("feed_forward.shared_expert.down_proj"),
            ),
            head="language_model.lm_head",
        ),
        "language_model.model",
    ),
    "qwen3_5": wrap_text_model(QWEN35),
    "qwen3_5_moe": wrap_text_model(QWEN_NEXT),
    "qwen2_vl": wrap_text_model(LLAMA, "model.language_model", FLAT),
    "qwen2_5_vl": wrap_text_model(LLAMA, "model.language_model", FLAT),
    "qwen3_vl": wrap_text_model(LLAMA),
    "qwen3_vl_moe": wrap_text_model(replace(LLAMA, slots=(ATTENTION, MLP, EXPERTS))),
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
    "kimi_k25": wrap_text_model(
        MOE,
        "model.language_model",
        (("model.language_model.layers.", "language_model.model.blocks."), *OUTSIDE),
        OUTSIDE,
    ),
    "emu3": wrap_text_model(
        LLAMA,
        "model.text_model",
        (("model.text_model.", "text_model.model."), ("lm_head", "text_model.lm_head")),
    ),
    "phi4_multimodal": replace(LLAMA, multimodal=True),
    "cohere2_vision": wrap_text_model(PARALLEL),
    "fuyu": wrap_text_model(PERSIMMON, "model.language_model", OUTSIDE),
    "glm4v": wrap_text_model(GLM4),
    "glm4v_moe": wrap_text_model(MOE),
    "lfm2_vl": wrap_text_model(LFM2),
    **dict.fromkeys(
        ["smolvlm", "idefics3", "idefics2"], wrap_text_model(LLAMA, "model.text_model", wraps_text_model=True)
    ),
    "chameleon": replace(LLAMA, multimodal=True),
}
"""By `model_type` of config.json."""
