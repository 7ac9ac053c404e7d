"""The same prompts in another context: after an earlier exchange, or after a long
unrelated text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vectomy.core.errors import PromptError
from vectomy.data.prompts import Prompt, Turn
from vectomy.models import ChatModel

__all__ = ["after_an_exchange", "behind_text", "filler"]

EXCHANGE = (
    Turn("user", "What is a good way to keep basil fresh for a few days?"),
    Turn(
        "assistant",
        "Trim the stems and stand them in a glass of water at room temperature, out of the sun. Change the "
        "water every day, and "
        "pick the leaves from the top.",
    ),
)
WHAT = (
    "gate",
    "bench",
    "fountain",
    "hedge",
    "greenhouse",
    "bridge",
    "sundial",
    "pond",
    "stairway",
    "orchard",
    "pavilion",
)
WHERE = ("north", "south", "east", "west", "middle", "lower", "upper", "old", "new")
DONE = (
    "was painted green",
    "was measured again",
    "was cleaned by two people",
    "stayed as it was",
    "was shown to visitors",
    "got a new sign",
    "was drawn for the archive",
    "was closed for an hour",
    "was repaired with local stone",
    "was counted twice",
)
WHEN = (
    "in spring",
    "on a Monday",
    "before noon",
    "after the rain",
    "in the third week",
    "late in the year",
    "at low tide",
)
INTRODUCED = (
    "Here are the caretaker's notes on the park.\n\n{filler}\n\nThat was the last of the notes. {request}"
)


def after_an_exchange(prompt: Prompt) -> Prompt:
    """The prompt as the second question, after one about basil and its answer."""
    return replace(prompt, history=(*EXCHANGE, *prompt.history))


def filler() -> Iterator[str]:
    """Neutral sentences. Thousands come before one repeats, because the lengths of the lists are
    coprime.
    """
    number = 0
    while True:
        what, where = WHAT[number % len(WHAT)], WHERE[number % len(WHERE)]
        done, when = DONE[number % len(DONE)], WHEN[number % len(WHEN)]
        number += 1
        yield f"Note {number}: the {where} {what} {done} {when}."


def behind_text(chat: ChatModel, prompts: Sequence[Prompt], tokens: int, room: int) -> list[Prompt]:
    """Each prompt after about `tokens` tokens of filler (whole sentences), in the same turn. The
    filler is the same for all prompts.

    Args:
        room: tokens of the answer, which must also fit.

    Raises:
        PromptError: filler, prompt and answer exceed the positions of the model.
    """
    limit = chat.context
    made = _behind(chat, prompts, tokens) if limit is None or tokens < limit else []
    if limit is not None and (not made or max(map(len, chat.tokens(made))) + room > limit):
        raise PromptError(
            f"{tokens} tokens of text, a prompt and its answer of {room} tokens do not fit into the {limit} "
            "positions of "
            f"{chat.name}; lower --context-tokens"
        )
    return made


def _behind(chat: ChatModel, prompts: Sequence[Prompt], tokens: int) -> list[Prompt]:
    sentences: list[str] = []
    count = 0
    for sentence in filler():
        if count >= tokens:
            break
        sentences.append(sentence)
        count += len(chat.tokenizer(sentence, add_special_tokens=False)["input_ids"])
    text = " ".join(sentences)
    return [replace(prompt, text=INTRODUCED.format(filler=text, request=prompt.text)) for prompt in prompts]
