"""Prompts behind an earlier exchange and behind a long text."""

import pytest
import tiny_chat
from tiny_chat import NIGHT

from vectomy.core.errors import PromptError
from vectomy.data.prompts import Prompt, Turn
from vectomy.metrics.surroundings import EXCHANGE, after_an_exchange, behind_text, filler

TIER = "chat"


def test_an_earlier_exchange_stands_before_the_prompt() -> None:
    prompt = after_an_exchange(Prompt("show the owl red", None, (Turn("user", "x"), Turn("assistant", "be"))))
    assert prompt.text == "show the owl red"
    assert prompt.history[:2] == EXCHANGE
    rendered = tiny_chat.chat().render(prompt)
    assert rendered.index("basil") < rendered.index("<|user|> x") < rendered.index("show the owl red")


def test_filler_has_the_asked_length_and_does_not_repeat() -> None:
    chat = tiny_chat.chat()
    short, long = (behind_text(chat, tiny_chat.prompts(NIGHT, 2), tokens, room=0) for tokens in (8, 24))
    bare = len(chat.tokens(behind_text(chat, [Prompt("x")], 1, 0))[0])
    for made, tokens in ((short, 8), (long, 24)):
        assert all(
            one.text.endswith(prompt.text)
            for one, prompt in zip(made, tiny_chat.prompts(NIGHT, 2), strict=True)
        )
        # The first sentence is in `bare` too; the last one may go over by its own length.
        grown = len(chat.tokens([made[0]])[0]) - bare
        assert tokens - 16 <= grown <= tokens + 16
    sentences = filler()
    seen = [next(sentences).partition(": ")[2] for _ in range(3000)]
    assert len(set(seen)) == 3000


def test_a_context_longer_than_the_model_is_refused() -> None:
    for tokens, room in ((64, 0), (1 << 60, 1), (20, 60)):
        with pytest.raises(PromptError, match="the 64 positions of tiny; lower --context-tokens"):
            behind_text(tiny_chat.chat(), [Prompt("x")], tokens, room)
