"""What is checked of prompts before any work: they reach the model whole, as tokens that it has,
and leave room for an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vectomy.core.config import Runtime
from vectomy.core.errors import ModelError, PromptError
from vectomy.core.progress import Log, ignore
from vectomy.data.prompts import Prompt, Turn
from vectomy.models.chat import ChatModel
from vectomy.models.loading import load_without_weights

__all__ = ["check_lengths", "check_prompts", "list_template_faults"]

# What prompts have in the files that people use.
USUAL_PROMPTS = (
    Prompt("Name three rivers."),
    Prompt("Name three rivers.", "Answer in one sentence."),
    Prompt("Name three rivers.", None, (Turn("user", "Hello, who are you?"), Turn("assistant", "A model."))),
)


def check_prompts(
    path: str | Path,
    prompts: Sequence[Prompt],
    answer_tokens: int,
    *,
    runtime: Runtime | None = None,
    name: str | None = None,
    log: Log = ignore,
) -> ChatModel:
    """Render and encode all prompts for the model folder `path`, without its weights.

    Args:
        answer_tokens: the longest answer.
        log: takes what is done other than the folder says.

    Returns:
        The model without weights.

    Raises:
        ModelError: the model has no chat template, the template raises or leaves a prompt out, or a
            token is beyond the embedding.
        PromptError: a prompt and its answer exceed the positions of the model.
    """
    chat = load_without_weights(path, runtime=runtime, name=name)
    if chat.template.date is not None:
        log(
            f"the chat template of {chat.name} writes the date of the day; prompts are rendered as of "
            f"{chat.template.date}, so that the same seed gives the same results on any day"
        )
    kernel = chat.checkpoint.config.get("_attn_implementation") or chat.checkpoint.config.get(
        "attn_implementation"
    )
    if kernel is not None and chat.model.config._attn_implementation != kernel:
        log(
            f"config.json of {chat.name} asks for the attention kernel {kernel}; "
            f"{chat.model.config._attn_implementation}, which is a part of torch, is used and gives the same "
            "results"
        )
    thought = (runtime and runtime.thinking and runtime.thought_tokens) or 0
    check_lengths(chat, prompts, chat.tokens(prompts), answer_tokens + thought, log)
    _tell_special_tokens(chat, prompts, log)
    return chat


def _tell_special_tokens(chat: ChatModel, prompts: Sequence[Prompt], log: Log) -> None:
    """The tokenizer reads the names of its special tokens as these tokens wherever they are, so
    that a prompt may end its own turn.
    """
    names = [str(name) for name in chat.tokenizer.all_special_tokens if str(name).strip()]
    holding = [(name, prompt) for prompt in prompts for name in names if name in prompt.text]
    if holding:
        name, prompt = holding[0]
        count = len({prompt.key for _, prompt in holding})
        log(
            f"{count} of {len(prompts)} prompts hold text that the tokenizer of {chat.name} reads as a "
            f"special token, such as {name} in '{prompt.text[:60]}'; the model sees the token there"
        )


def list_template_faults(
    path: str | Path, *, runtime: Runtime | None = None, name: str | None = None
) -> list[str]:
    """What keeps prompts of the usual forms (plain, with a system prompt, after earlier turns) from
    reaching the model in folder `path`, and what is done other than the folder says; in sentences.
    """
    lines: list[str] = []
    for prompt in USUAL_PROMPTS:
        try:
            check_prompts(path, [prompt], 0, runtime=runtime, name=name, log=lines.append)
        except (ModelError, PromptError) as error:
            lines.append(str(error))
    return list(dict.fromkeys(lines))


def check_lengths(
    chat: ChatModel,
    prompts: Sequence[Prompt],
    tokens: Sequence[Sequence[int]],
    answer_tokens: int,
    log: Log = ignore,
    *,
    remedy: str = "shorten it, or lower --answer-tokens",
    fixed: bool = False,
) -> None:
    """Check that each prompt and its answer fit the positions of the model. Positions that are
    computed, not learned, have no hard end: answers may pass it, with a note to `log`.

    Args:
        fixed: the prompts are the measure's own, so that they may pass the end too.

    Raises:
        PromptError: with the longest prompt.
    """
    if chat.context is None or not tokens:
        return
    length, text = max((len(ids), prompt.text) for ids, prompt in zip(tokens, prompts, strict=True))
    if length + answer_tokens <= chat.context:
        return
    fault = (
        f"the prompt '{text[:60]}' has {length} tokens, which with an answer of {answer_tokens} exceed the "
        f"{chat.context} positions of {chat.name} (max_position_embeddings)"
    )
    learned = any(writer.component == "position" for writer in chat.architecture.writers)
    if learned or (length >= chat.context and not fixed):
        raise PromptError(f"{fault}; leave it out, {remedy}")
    log(f"{fault}; what is beyond them may be garbled: {remedy.removeprefix('or ')}")
