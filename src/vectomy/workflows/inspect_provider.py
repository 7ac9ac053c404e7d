"""A model provider for Inspect AI (https://inspect.aisi.org.uk/extensions.html): `vectomy/NAME`.

    inspect eval TASK --model vectomy/runs/demo-gradient -M point=54 -M strength=0.5

NAME is what `vectomy chat` takes: a run, an Edit, or an adapter of PEFT. Answers are greedy, one at
a time, and without tools. Inspect finds this module by the entry point in pyproject.toml.
"""

from __future__ import annotations

import asyncio
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)

from vectomy.core.errors import UsageError
from vectomy.data.prompts import Prompt, Turn
from vectomy.workflows.conversation import Voice
from vectomy.workflows.open_conversation import open_conversation

__all__ = ["EditedModelAPI", "read_messages", "vectomy"]

LIMIT = 512
"""Tokens of an answer where Inspect names no number."""
VOICES: dict[str, Voice] = {"base": "base", "edited": "edited"}


class EditedModelAPI(ModelAPI):
    """The edited model, or with `voice=base` its base.

    Args (Inspect's `-M`):
        base: the unedited model, where NAME does not name it.
        point: one of the run's points.
        strength: a factor of the Edit's strengths.
        voice: `edited` or `base`.
        device: cpu, cuda, ...; as in the run if not given.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (Inspect's own signature)
        *,
        base: str | None = None,
        point: str | int | None = None,
        strength: float = 1.0,
        voice: str = "edited",
        device: str | None = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        if voice not in VOICES:
            raise UsageError(f"voice is {' or '.join(VOICES)}, not '{voice}'")
        name = None if point is None else str(point)
        self.talk, _ = open_conversation(model_name, base, point=name, device=device)
        self.talk.strength, self.talk.voices = float(strength), (VOICES[voice],)

    def max_connections(self) -> int:
        """One conversation at a time."""
        return 1

    async def generate(
        self, input: list[ChatMessage], tools: list[Any], tool_choice: Any, config: GenerateConfig
    ) -> ModelOutput:
        """The greedy answer to the last message.

        Raises:
            UsageError: tools, or a temperature other than 0.
        """
        if tools:
            raise UsageError("the provider vectomy gives no tools to the model; use a task without tools")
        if config.temperature:
            raise UsageError(
                "the provider vectomy answers greedily; leave the temperature out, or set it to 0"
            )
        prompt, limit = read_messages(input), config.max_tokens or LIMIT
        tokens, answer = await asyncio.to_thread(self._answer, prompt, limit)
        output = ModelOutput.from_content(
            self.model_name,
            self.talk.chat.text(answer),
            stop_reason="max_tokens" if len(answer) >= limit else "stop",
        )
        output.usage = ModelUsage(
            input_tokens=tokens, output_tokens=len(answer), total_tokens=tokens + len(answer)
        )
        return output

    def _answer(self, prompt: Prompt, limit: int) -> tuple[int, list[int]]:
        """The number of tokens of the prompt, and the tokens of the answer."""
        (voice,) = self.talk.voices
        (ids,) = self.talk.chat.tokens([prompt])
        with self.talk.dialled([voice]):
            (answer,) = self.talk.chat.answer([ids], limit, "auto")
        return len(ids), answer


def read_messages(messages: list[ChatMessage]) -> Prompt:
    """A conversation that ends with the user's turn.

    Raises:
        UsageError: another role, or the last turn is not the user's.
    """
    system = [message.text for message in messages if isinstance(message, ChatMessageSystem)]
    turns = []
    for message in messages:
        if isinstance(message, ChatMessageUser):
            turns.append(Turn("user", message.text))
        elif isinstance(message, ChatMessageAssistant):
            turns.append(Turn("assistant", message.text))
        elif not isinstance(message, ChatMessageSystem):
            raise UsageError(f"the provider vectomy takes no messages of the role '{message.role}'")
    if not turns or turns[-1].role != "user":
        raise UsageError("the last message has to be the user's")
    return Prompt(turns[-1].content, "\n\n".join(system) or None, tuple(turns[:-1]))


@modelapi(name="vectomy")
def vectomy() -> type[ModelAPI]:
    """What Inspect calls for models named `vectomy/NAME`."""
    return EditedModelAPI
