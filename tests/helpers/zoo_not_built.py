"""Model types of transformers that the zoo leaves out, and why."""

from __future__ import annotations

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
    "dots3_note": "its towers have no small form (layers named one by one); "
    "dots3_note_text has the same text tower",
    "gpt-sw3": "gpt2 by another name; saved, it is gpt2",
    "internlm2": "remote code only, transformers has no such type",
    "vision-encoder-decoder": _DECODER,
}
