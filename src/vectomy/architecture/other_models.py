"""What a config.json describes that is no language model with one residual stream."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vectomy.core.json_value import JsonValue

__all__ = ["explain_other_model"]

ENCODER_DECODERS = re.compile(
    r"bart|bigbird_pegasus|blenderbot|blenderbot-small|encoder-decoder|fsmt|led|longt5|m2m_100|"
    r"marian|mbart|moonshine|mt5|musicgen|mvp|nllb-moe|pegasus|pegasus_x|plbart|pop2piano|"
    r"prophetnet|seamless_m4t|speech-encoder-decoder|speech_to_text|switch_transformers|t5|t5gemma|"
    r"udop|umt5|vision-encoder-decoder|whisper|xlm-prophetnet"
)
ENCODERS = re.compile(
    r"albert|beit|bert|big_bird|camembert|canine|clap|clip|convbert|data2vec-text|deberta|"
    r"deberta-v2|deit|dinov2|distilbert|electra|ernie|esm|flaubert|hubert|jina_embeddings_v3|"
    r"layoutlm|longformer|luke|mobilebert|modernbert|mpnet|nomic_bert|nystromformer|perceiver|"
    r"rembert|roberta|roformer|siglip|siglip2|squeezebert|swin|vit|wav2vec2|wavlm|xlm|xlm-roberta|"
    r"xlm-roberta-xl"
)
# Values of model_type above; below, ends of the names of transformers' classes.
TASKS = ("ForMaskedLM", "ForPreTraining", "ForImageClassification", "ForCTC", "ForObjectDetection")


def explain_other_model(config: Mapping[str, JsonValue]) -> str | None:
    """Why a model of unknown type cannot be edited, from its config.json; None for a language model
    that is only not known yet.
    """
    kind, name = str(config.get("model_type")), config.get("_class_name")
    architectures = config.get("architectures")
    classes = [str(item) for item in architectures] if isinstance(architectures, list) else []
    if name is not None or "_diffusers_version" in config:
        return (
            f"config.json describes a part of a diffusion model ({str(name)!r:.80}), which has no residual "
            "stream of a language model; a text encoder that is one lies in its own folder (text_encoder/)"
        )
    if "peft_type" in config or "base_model_name_or_path" in config:
        return (
            "config.json describes a PEFT adapter; merge it into its base with model.merge_and_unload(), "
            "save that model, and give its folder"
        )
    if config.get("is_encoder_decoder") is True or ENCODER_DECODERS.fullmatch(kind):
        return (
            f"a model of type {kind!r:.80} is an encoder-decoder: what it answers also comes through "
            "cross-attention, which no edit of one residual stream follows; give a decoder-only model"
        )
    if ENCODERS.fullmatch(kind) or any(item.endswith(TASKS) for item in classes):
        return (
            f"a model of type {kind!r:.80} ({', '.join(classes)[:80] or 'no class named'}) does not "
            "generate text, so it shows no behaviour in answers; give a decoder-only language model"
        )
    if config.get("model_type") is None:
        return (
            "config.json names no model_type, so it is not a transformers configuration; take config.json "
            "from the model's release for transformers"
        )
    return None
