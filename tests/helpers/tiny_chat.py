"""A tiny chat model with a real tokenizer and template, taught in two seconds to refuse what holds
a night word.

Prompts are `VERB the NOUN COLOUR`; a noun of the night is answered with REFUSAL, one of the day
with an answer that names it. So the behaviour, its first token and its absence are known, and
held-out prompts are new combinations.
"""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tiny import random_model, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from vectomy.data.prompts import Prompt
from vectomy.models import ChatModel, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERBS = ("show", "paint", "find", "name", "draw", "keep")
NIGHT = ("owl", "moon", "bat", "star", "lamp", "moth")
DAY = ("sun", "bee", "rose", "lark", "hill", "lake")
COLOURS = ("red", "blue", "green", "white")
REFUSAL = "I can't help with that"
COMPLIANCE = "sure the {noun} is here now"
# On matrices this small two threads wait for each other, on a busy machine ten times as long.
torch.set_num_threads(1)

SPECIAL = (
    "<pad>",
    "<bos>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<unk>",
    "<think>",
    "</think>",
)
WORDS = dict.fromkeys(
    (*VERBS, *NIGHT, *DAY, *COLOURS, *REFUSAL.split(), *COMPLIANCE.split(), "be", "brief", "Hello", "x")
)
VOCABULARY = [*SPECIAL, *(word for word in WORDS if "{" not in word)]
TURNS = "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|>{% endfor %}"
OPENS = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
TEMPLATE = "<bos>" + TURNS + OPENS
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
)
THINKING = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think> </think>{% endif %}"
ALWAYS_THINKING = TEMPLATE + "<think>{{ '\n' }}"
PROMPTS = 40
# What the thinking model writes before each answer.
THOUGHT = "<think> be brief x </think> "


def texts(nouns: tuple[str, ...], seed: int = 0) -> list[str]:
    """All prompts about `nouns`, shuffled."""
    all_of = [f"{verb} the {noun} {colour}" for verb in VERBS for noun in nouns for colour in COLOURS]
    random.Random(seed).shuffle(all_of)
    return all_of


def prompts(nouns: tuple[str, ...], count: int, seed: int = 0) -> list[Prompt]:
    return [Prompt(text) for text in texts(nouns, seed)[:count]]


def answer_of(text: str) -> str:
    noun = text.split()[2]
    return REFUSAL if noun in NIGHT else COMPLIANCE.format(noun=noun)


def tokenizer(template: str | None = TEMPLATE, add_bos: bool = False) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if add_bos:
        words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    named = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=False))
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", extra_special_tokens=list(SPECIAL[3:6]), **named
    )
    made.chat_template = template
    return made


@cache
def taught(thought: str = "") -> dict[str, torch.Tensor]:
    """Weights of the tiny llama, trained on all prompts by teacher forcing in batches of 48; with a
    thought before every answer.
    """
    model = random_model("llama", vocab_size=len(VOCABULARY))
    words, rows = tokenizer(), [*texts(NIGHT), *texts(DAY)]
    full = [f"<bos><|user|> {text} <|end|><|assistant|> {thought}{answer_of(text)} <|end|>" for text in rows]
    ids = torch.tensor(words(full, add_special_tokens=False, padding=True)["input_ids"])
    start = len(words(full[0].partition("<|assistant|>")[0], add_special_tokens=False)["input_ids"])
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        batch = ids[torch.randperm(len(ids), generator=generator)[:48]]
        logits = model(batch).logits[:, start:-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch[:, start + 1 :].flatten(), ignore_index=0
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def save(
    path: Path,
    *,
    taught_: bool = True,
    template: str | None = TEMPLATE,
    add_bos: bool = False,
    thought: str = "",
) -> Path:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(tiny_config("llama", vocab_size=len(VOCABULARY))).float().eval()
    model.load_state_dict(
        taught(thought) if taught_ else random_model("llama", vocab_size=len(VOCABULARY)).state_dict()
    )
    model.generation_config.eos_token_id = 2
    model.save_pretrained(path)
    tokenizer(template, add_bos).save_pretrained(path)
    return path


@cache
def folder(taught_: bool = True, template: str | None = TEMPLATE, add_bos: bool = False) -> Path:
    """A model folder, made once a session; not to be written to."""
    return save(scratch(), taught_=taught_, template=template, add_bos=add_bos)


@cache
def thinker() -> ChatModel:
    """The chat model that thinks before it answers or refuses, as by --thinking."""
    return load_model(
        save(scratch(), thought=THOUGHT), device="cpu", dtype="float32", thinking=True, name="thinker"
    )


@cache
def chat(taught_: bool = True, template: str | None = TEMPLATE, add_bos: bool = False) -> ChatModel:
    return load_model(folder(taught_, template, add_bos), device="cpu", dtype="float32", name="tiny")


def raw(chat: ChatModel, ids: list[int], **more: Any) -> Any:
    """What transformers itself computes for one unpadded prompt: the oracle."""
    with torch.no_grad():
        return chat.model(torch.tensor([ids]), **more)


def scratch() -> Path:
    """A new folder that goes when the session ends."""
    path = Path(tempfile.mkdtemp(prefix="tiny-chat-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def _sources() -> dict[str, str]:
    given = {}
    path = scratch()
    for side, nouns in (("positive", NIGHT), ("negative", DAY)):
        file = path / f"{side}.json"
        file.write_text(json.dumps(texts(nouns)[:PROMPTS]), encoding="utf-8")
        given[side] = str(file)
    return given


def sources() -> dict[str, str]:
    """Prompt files of both sides, as options of a run."""
    return dict(_sources())
