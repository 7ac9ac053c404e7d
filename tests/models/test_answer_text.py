"""The text of an answer keeps the tokens that set thoughts apart, and no other special token."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import tiny_chat
from tiny_chat import ALWAYS_THINKING
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vectomy.data.thoughts import split_thoughts
from vectomy.models.answer_text import decode_answer, find_final_part, find_opened_thought

TIER = "chat"

WORDS = ["<unk>", "analysis", "final", "assistant", "hmm", "sure", "the", "owl", "<think>", "</think>"]
SPECIAL = ["<|end|>", "<|return|>", "[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|start|>"]


def tokenizer() -> PreTrainedTokenizerFast:
    """`<think>` is an ordinary token as in Qwen3; `[THINK]` and the channels are special."""
    vocabulary = {word: index for index, word in enumerate([*WORDS, *SPECIAL])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<|return|>", extra_special_tokens=SPECIAL
    )


@pytest.mark.parametrize(
    "answer",
    [
        "<think> hmm </think> sure the owl <|return|>",
        "[THINK] hmm [/THINK] sure the owl <|return|>",
        (
            "<|channel|> analysis <|message|> hmm <|end|> <|start|> assistant "
            "<|channel|> final <|message|> sure the owl <|return|>"
        ),
    ],
)
def test_thoughts_of_every_kind_of_token_are_told_apart(answer: str) -> None:
    words = tokenizer()
    text = decode_answer(words, words(answer)["input_ids"])
    split = split_thoughts(text)
    assert (split.thought, split.answer, split.finished) == ("hmm", "sure the owl", True)
    assert "<|return|>" not in text


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        ("sure the owl <|return|>", "sure the owl <|return|>"),
        ("<think> hmm </think> sure the owl <|return|>", "sure the owl <|return|>"),
        ("<think> </think> sure the", "sure the"),
        ("hmm the </think> sure the", "sure the"),
        ("[THINK] hmm sure [/THINK] sure sure", "sure sure"),
        (
            "<|channel|> analysis <|message|> sure <|end|> <|start|> <|channel|> final <|message|> sure the",
            "sure the",
        ),
        ("<think> hmm sure the", None),
        ("<think> hmm </think> <|return|>", None),
        ("<|channel|> analysis <|message|> sure the <|end|>", None),
    ],
)
def test_the_final_part_begins_behind_the_thought(answer: str, final: str | None) -> None:
    words = tokenizer()
    ids = words(answer)["input_ids"]

    def decode(part: Sequence[int]) -> str:
        return decode_answer(words, part)

    start = find_final_part(ids, decode(ids), decode)
    assert (None if start is None else ids[start:]) == (None if final is None else words(final)["input_ids"])


def test_a_letter_of_several_tokens_may_follow_the_thought() -> None:
    """Tokens are single bytes: a part that begins inside of the letter has no text for it."""
    text = "<think>é</think>é ist gut"
    ids = list(text.encode())

    def decode(part: Sequence[int]) -> str:
        return bytes(part).decode(errors="replace").strip()

    start = find_final_part(ids, text, decode)
    assert start is not None
    assert bytes(ids[start:]).decode() == "é ist gut"


@pytest.mark.parametrize(
    "answer", ["sure the owl <|end|>", "<|start|> sure the owl <|return|>", "<|end|>", ""]
)
def test_an_answer_without_thoughts_is_decoded_as_transformers_does(answer: str) -> None:
    words = tokenizer()
    ids = words(answer)["input_ids"]
    assert decode_answer(words, ids) == words.decode(ids, skip_special_tokens=True).strip()


def test_a_thought_that_the_template_opens_is_in_the_answer() -> None:
    chat = tiny_chat.chat(template=ALWAYS_THINKING)
    ids = chat.tokenizer("sure the owl is here now <|end|>", add_special_tokens=False)["input_ids"]
    assert chat.text(ids) == "sure the owl is here now"
    thinking = replace(chat, thinking=True)
    assert thinking.text(ids) == "<think>\nsure the owl is here now"
    assert not split_thoughts(thinking.text(ids)).finished


@pytest.mark.parametrize(
    ("rendered", "opening"),
    [
        ("<|user|> hi <|end|><|assistant|><think>\n", "<think>"),
        ("[INST] hi [/INST][THINK]", "[THINK]"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("<|start|>assistant<|channel|>final<|message|>", ""),
        ("<think></think>", ""),
        ("<|assistant|>", ""),
    ],
)
def test_the_opening_at_the_end_of_a_prompt(rendered: str, opening: str) -> None:
    assert find_opened_thought(rendered) == opening
