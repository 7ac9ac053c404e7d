"""A tiny chat model that answers in two ways, as its system prompt says: `sure the NOUN is here
now` without one, and `that NOUN is red now` under SYSTEM. So which answers show the trait is known,
and held-out prompts are new combinations.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from tiny import random_model
from tiny_chat import DAY, NIGHT, VOCABULARY, scratch, texts, tokenizer

SYSTEM = "be brief"
TRAIT = {
    "description": "Answers point at things.",
    "safety": "None: it is a test.",
    "operation": "induce",
    "positive": {"system": SYSTEM},
    "scorer": {"kind": "lexicon", "patterns": ["that"]},
}


def answer_of(text: str, styled: bool) -> str:
    noun = text.split()[2]
    return f"that {noun} is red now" if styled else f"sure the {noun} is here now"


@cache
def folder() -> Path:
    """The model's folder, made once a session (some seconds); not to be written to."""
    model = random_model("llama", vocab_size=len(VOCABULARY))
    words, rows = tokenizer(), [*texts(NIGHT), *texts(DAY)]
    full = [
        f"<bos>{system}<|user|> {text} <|end|><|assistant|> {answer_of(text, styled)} <|end|>"
        for styled, system in ((True, f"<|system|> {SYSTEM} <|end|>"), (False, ""))
        for text in rows
    ]
    encoded = [words(text, add_special_tokens=False)["input_ids"] for text in full]
    width = max(map(len, encoded))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in encoded])
    mask = (ids != 0).long()
    marker = words.convert_tokens_to_ids("<|assistant|>")
    is_answer = (ids == marker).cumsum(-1).bool()[:, :-1]
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        rows_ = torch.randperm(len(ids), generator=generator)[:48]
        position = (mask[rows_].cumsum(-1) - 1).clamp_min(0)
        logits = model(ids[rows_], attention_mask=mask[rows_], position_ids=position).logits[:, :-1]
        asked = is_answer[rows_]
        loss = torch.nn.functional.cross_entropy(logits[asked], ids[rows_][:, 1:][asked])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = scratch()
    model.generation_config.eos_token_id = 2
    model.save_pretrained(path)
    words.save_pretrained(path)
    return path


@cache
def trait_file() -> Path:
    """The trait, with prompts of its own."""
    path = scratch()
    prompts = path / "prompts.json"
    prompts.write_text(json.dumps([*texts(NIGHT)[:60], *texts(DAY)[:60]]), encoding="utf-8")
    file = path / "pointing.json"
    file.write_text(json.dumps({**TRAIT, "prompts": {"source": str(prompts)}}), encoding="utf-8")
    return file
