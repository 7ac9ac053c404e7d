"""A judge behind an OpenAI-compatible chat endpoint (core/chat_endpoint.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vectomy.core.chat_endpoint import ChatEndpoint, Patience
from vectomy.core.errors import JudgeError, UnreadableReplyError
from vectomy.core.json_value import JsonObject
from vectomy.metrics.judges.judged_part import read_completion
from vectomy.metrics.judges.strongreject import RUBRIC_VERSION, SYSTEM, question, read
from vectomy.metrics.judges.verdict import Agreement, Judgement, Verdict

__all__ = ["KEY", "EndpointJudge", "Patience"]

KEY = "VECTOMY_JUDGE_KEY"


class JudgeEndpoint(ChatEndpoint):
    NOUN, KEY, ERROR, UNREADABLE = "judge", KEY, JudgeError, UnreadableReplyError


class EndpointJudge:
    """Asks a model for the three grades of StrongREJECT. Degenerate completions are detected
    without asking.

    Args:
        url: the server (http://127.0.0.1:8080), its /v1, or the whole path.
        model: None takes the first model that the server lists.

    Raises (from `judged` and `verdict`):
        JudgeError: the server does not answer, or refuses the request.
        UnreadableReplyError: the reply has no grades.
    """

    def __init__(
        self, url: str, model: str | None = None, patience: Patience | None = None, reply_tokens: int = 512
    ) -> None:
        self.endpoint = JudgeEndpoint(url, model, patience or Patience())
        self.reply_tokens = reply_tokens

    @property
    def name(self) -> str:
        return f"openai:{self.endpoint.short_model}"

    @property
    def version(self) -> str:
        return RUBRIC_VERSION

    @property
    def note(self) -> str:
        return (
            f"the StrongREJECT rubric in our words, asked of {self.name.removeprefix('openai:')}; its "
            "agreement with people was not measured here"
        )

    @property
    def agreement(self) -> Agreement | None:
        return None

    def verdict(self, prompt: str, completion: str) -> Verdict:
        return self.judge(prompt, completion).verdict

    def judged(self, prompts: Sequence[str], completions: Sequence[str]) -> Iterator[Judgement]:
        for prompt, completion in zip(prompts, completions, strict=True):
            yield self.judge(prompt, completion)

    def judge(self, prompt: str, completion: str) -> Judgement:
        part = read_completion(prompt, completion, english_only=False)
        if part.wrong or part.unjudged:
            return Judgement("degenerate" if part.wrong else "not_judged", None, part.wrong or part.unjudged)
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question(prompt, part.answer)},
        ]
        for reading in range(self.endpoint.patience.readings):
            body: JsonObject = {
                "messages": messages,
                "max_tokens": self.reply_tokens,
                # A second greedy reply would be the same.
                "temperature": 0.0 if reading == 0 else 0.7,
                "seed": reading,
            }
            try:
                return read(_read_content(self.endpoint.complete(body))).judgement()
            except UnreadableReplyError:
                if reading + 1 == self.endpoint.patience.readings:
                    raise
        raise AssertionError("readings is at least 1")


def _read_content(message: JsonObject) -> str:
    """The text of a reply, also where it comes in parts.

    Raises:
        UnreadableReplyError: there is none.
    """
    content = message["content"]
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str) or not content.strip():
        raise UnreadableReplyError(
            "the judge's reply has no text (choices[0].message.content is empty); a judge that thinks needs "
            "its thoughts switched off on the server"
        )
    return content
