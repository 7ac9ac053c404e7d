"""Why a checkpoint lacks a tensor of its model, from the names that it has.

index.py has found the files whole before names are looked at, so a broken download is not among the
reasons.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

__all__ = ["explain_missing", "find_unmerged", "find_wrapper"]

WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_forward_module.": "Lightning",
    "module.": "DataParallel or DeepSpeed",
    "base_model.model.": "PEFT",
    "pretrained_model.": "TRL's model with a value head",
    "language_model.": "a multimodal model, as its text part",
    "text_model.": "a multimodal model, as its text part",
    "policy.": "a trainer",
    "actor.": "a trainer",
    "student.": "a trainer",
}
"""What writes a prefix in front of names, or inside of them."""
UNMERGED = re.compile(r"\.(base_layer|lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)\.")
# A name of the layout, and whose layout it is.
LAYOUTS = (
    (r"tok_embeddings\.weight", "Meta's and Mistral's own layout"),
    (r"(model\.)?language_model\.embedding\.word_embeddings\.weight", "Megatron's layout"),
    (r"embedding\.word_embeddings\.weight", "Megatron's layout"),
    (r"(model\.diffusion_model|double_blocks|single_blocks|first_stage_model)\..*", "a diffusion model"),
    (r"token_embd\.weight", "GGUF"),
    (r"(encoder|decoder)\.block\.0\..*", "an encoder-decoder (T5)"),
    (r"(model\.)?encoder\.layers?\.0\..*", "an encoder"),
    (r"transformer\.(wte|h\.0)\..*", "GPT-2"),
    (r"gpt_neox\..*", "GPT-NeoX"),
    (r"model\.layers\.0\..*", "Llama"),
)
PACKED = (".qweight", ".weight_packed", ".W_q", ".q_weight", ".scales")


def explain_missing(missing: Sequence[str], names: Collection[str]) -> str:
    """Why the checkpoint with the tensors `names` has none of those that are `missing`, and what to
    do.
    """
    unmerged = find_unmerged(names)
    if unmerged:
        return unmerged
    for name in missing:
        wrapper = find_wrapper(name, names)
        if wrapper:
            return wrapper
    for pattern, layout in LAYOUTS:
        example = next((other for other in names if re.fullmatch(pattern, other)), None)
        roots = {name.partition(".")[0] for name in missing}
        if example is not None and example.partition(".")[0] not in roots:
            return (
                f"its tensors are named as in {layout} ('{example:.80}'), not as config.json's model type "
                "names them: use the release for transformers, or convert it"
            )
    packed = next((other for other in names if other.endswith(PACKED)), None)
    if packed is not None:
        return (
            f"its weights are packed ('{packed:.80}') in a format that is not known: use the model's "
            "bfloat16 release"
        )
    return "its files are whole, so it was left out when the model was saved: save the model again"


def find_unmerged(names: Collection[str]) -> str | None:
    """What to do about an adapter that lies in a checkpoint beside the weights that it changes."""
    example = next((name for name in names if UNMERGED.search(name)), None)
    if example is None:
        return None
    return (
        f"it holds an adapter that was never merged ('{example:.80}'; base_layer and lora_A are PEFT's "
        "names): merge it with model.merge_and_unload(), save that model, and use the copy"
    )


def find_wrapper(name: str, names: Collection[str]) -> str | None:
    """What to do about a prefix in front of the names, or inside of them; None without one."""
    prefix = next((other.removesuffix(name) for other in names if other.endswith(name)), "")
    inside = (part for part in WRAPPERS if any(other.replace(part, "") == name for other in names))
    prefix = prefix or next(inside, "")
    if not prefix:
        return None
    count = sum(prefix in other for other in names)
    writer = next((writer for part, writer in WRAPPERS.items() if part in prefix), None)
    origin = f", as {writer} writes it," if writer else ""
    return (
        f"{count} of its {len(names)} tensor names hold the prefix '{prefix:.80}'{origin} under which "
        "transformers would not load them: save the model that the wrapper holds, or remove the prefix from "
        "the names and save the file again"
    )
