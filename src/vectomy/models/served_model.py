"""A model behind an OpenAI-compatible chat endpoint: it answers, and nothing else of it is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from vectomy.core.chat_endpoint import ChatEndpoint, Patience
from vectomy.core.errors import EngineError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import Journal
from vectomy.data.prompts import Prompt
from vectomy.data.thoughts import TAGS

__all__ = ["KEY", "ServedModel"]

KEY = "VECTOMY_ENGINE_KEY"
# Names under which servers give the thought of a reasoning model, apart from its answer.
THOUGHTS = ("reasoning_content", "reasoning")


class ServedModel(ChatEndpoint):
    """Answers prompts by chat completions. The server renders them with its own template.

    Args:
        url, model, patience: as of `ChatEndpoint`.
        at_once: requests that the server has at once.
    """

    NOUN, KEY, ERROR, UNREADABLE = "server", KEY, EngineError, EngineError

    def __init__(
        self, url: str, model: str | None = None, patience: Patience | None = None, at_once: int = 8
    ) -> None:
        super().__init__(url, model, patience)
        self.at_once = at_once

    def answer_prompts(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        progress: Progress = silent,
        what: str = "answering",
        journal: Journal | None = None,
    ) -> list[str]:
        """Greedy answers as text (temperature 0). Where the server gives a thought apart, it comes
        first, in tags.

        Args:
            journal: takes each answer as it comes, by the prompt's index; those in it are not asked
                for again.

        Raises:
            EngineError: the server does not answer, refuses a request, or sends no message.
        """
        texts: dict[int, str] = {}

        def keep(row: int, answer: Callable[[], str]) -> None:
            texts[row] = answer() if journal is None else journal.get_or_compute(str(row), answer)

        missing = [row for row in range(len(prompts)) if journal is None or str(row) not in journal]
        _ = self.model if missing else None
        with progress(what, len(prompts), "prompts") as update:
            update(len(prompts) - len(missing))
            # Not as a context: its end waits for the requests that run.
            pool = ThreadPoolExecutor(self.at_once)
            asked = {pool.submit(self.answer_prompt, prompts[row], max_new_tokens): row for row in missing}
            try:
                for future in as_completed(asked):
                    keep(asked[future], future.result)
                    update(1)
            except EngineError:
                for future, row in asked.items():
                    if future.done() and not future.cancelled() and future.exception() is None:
                        keep(row, future.result)
                raise
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        for row in set(range(len(prompts))).difference(missing):
            keep(row, str)
        return [texts[row] for row in range(len(prompts))]

    def answer_prompt(self, prompt: Prompt, max_new_tokens: int) -> str:
        """One answer; see `answer_prompts`."""
        message = self.complete(
            {
                "messages": _write_messages(prompt),
                "max_tokens": max_new_tokens,
                "temperature": 0.0,
                "seed": 0,
            }
        )
        thought = next((text for name in THOUGHTS if (text := _read_text(message.get(name)))), "")
        answer = _read_text(message.get("content")) or _read_text(message.get("refusal"))
        if not thought:
            return answer
        opening, closing = TAGS[0]
        # A thought without an answer was cut off.
        return f"{opening}{thought}{closing}\n\n{answer}" if answer else f"{opening}{thought}"


def _write_messages(prompt: Prompt) -> list[JsonValue]:
    turns = [("system", prompt.system)] if prompt.system is not None else []
    turns += [(turn.role, turn.content) for turn in prompt.history]
    return [{"role": role, "content": content} for role, content in [*turns, ("user", prompt.text)]]


def _read_text(content: object) -> str:
    """A text, also where it comes in parts; empty for none."""
    if isinstance(content, list):
        parts: list[JsonObject] = [part for part in content if isinstance(part, dict)]
        content = "".join(text for part in parts if isinstance(text := part.get("text"), str))
    return content if isinstance(content, str) else ""
