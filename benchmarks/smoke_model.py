"""The large model of gpu_smoke.py: random weights in the shape of a real one."""

from __future__ import annotations

import json

import torch
from smoke_rows import GIB, Figures, Smoke

SHAPES = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
    },
}
SPECIAL = ("<pad>", "<bos>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<unk>")


def make_big_model(smoke: Smoke) -> Figures:
    """A checkpoint of random weights, a tokenizer of words, and prompt files, short and long."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    size = smoke.vocabulary
    words = [*SPECIAL, *(f"w{index}" for index in range(len(SPECIAL), size))]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<|end|>",
        unk_token="<unk>",
        extra_special_tokens=list(SPECIAL[3:6]),
    )
    # A shared beginning as long as Llama 3.1's.
    head = " ".join(f"w{index}" for index in range(100, 128))
    fast.chat_template = (
        f"<bos> <|system|> {head} <|end|>"
        "{% for m in messages %} <|{{ m['role'] }}|> {{ m['content'] }} <|end|>{% endfor %}"
        "{% if add_generation_prompt %} <|assistant|>{% endif %}"
    )
    config = AutoConfig.for_model(
        "llama",
        **SHAPES[smoke.shape],
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.02,
    )
    with torch.device(smoke.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(smoke.big, max_shard_size="4GB")
    fast.save_pretrained(smoke.big)
    for side, seed in (("positive", 1), ("negative", 2)):
        (smoke.folder / f"{side}.json").write_text(json.dumps(smoke.words(400, seed)))
        (smoke.folder / f"{side}-long.json").write_text(json.dumps(smoke.words(90, seed, 200, 260)))
    stored = sum(file.stat().st_size for file in smoke.big.glob("*.safetensors"))
    return {"gib": round(stored / GIB, 1)}
