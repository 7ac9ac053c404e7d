"""A random model that reads every letter, so that any text in English moves its scores."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tiny import random_model
from tiny_chat import TEMPLATE, scratch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


@cache
def spelling_folder() -> Path:
    """A model folder, made once a session; not to be written to."""
    from transformers import PreTrainedTokenizerFast

    letters = {
        sign: at
        for at, sign in enumerate(["<pad>", "<bos>", "<end>", "<unk>", *map(chr, range(32, 127)), "\n"])
    }
    words = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.decoder = decoders.Fuse()
    path = scratch()
    random_model("llama", vocab_size=len(letters), max_position_embeddings=256).save_pretrained(path)
    named = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<end>", "unk_token": "<unk>"}
    reads = PreTrainedTokenizerFast(tokenizer_object=words, **named)
    reads.chat_template = TEMPLATE
    reads.save_pretrained(path)
    return path
