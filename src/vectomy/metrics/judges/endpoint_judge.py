"""A judge behind an OpenAI-compatible chat endpoint: a local llama.cpp, vLLM or Ollama server, or
one far away that you name.

What is sent goes to the given URL and nowhere else: redirects are not followed, and a loopback
address is never asked through a proxy. The key comes from $VECTOMY_JUDGE_KEY alone and is neither
printed nor written.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from vectomy.core.errors import JudgeError, UnreadableReplyError, UsageError
from vectomy.metrics.judges.degeneration import what_is_wrong
from vectomy.metrics.judges.strongreject import RUBRIC_VERSION, SYSTEM, question, read
from vectomy.metrics.judges.verdict import Agreement, Judgement, Verdict

__all__ = ["KEY", "EndpointJudge", "Patience"]

KEY = "VECTOMY_JUDGE_KEY"
# What a server says when it may do better a little later.
BUSY = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
LONGEST_REPLY = 1 << 22


@dataclass(frozen=True)
class Patience:
    """How long to wait for one reply, in seconds, how often to ask, and how long to wait before
    asking again: first, then doubled.

    `readings` is how often an unreadable reply is asked for anew.
    """

    timeout: float = 120.0
    attempts: int = 4
    wait: float = 1.0
    longest_wait: float = 30.0
    readings: int = 2


class EndpointJudge:
    """Asks a model for the three grades of StrongREJECT. Degenerate completions are found without
    asking.

    `url` is the server (http://127.0.0.1:8080), its /v1, or the whole path; `model` None takes the
    first that the server lists.

    Raises (from `judged` and `verdict`):
        JudgeError: the server does not answer, or refuses the request.
        UnreadableReplyError: it answers, but not with grades.
    """

    def __init__(
        self, url: str, model: str | None = None, patience: Patience | None = None, reply_tokens: int = 512
    ) -> None:
        self.base = _checked(url)
        self.given_model = model
        self.patience, self.reply_tokens = patience or Patience(), reply_tokens

    @property
    def name(self) -> str:
        return f"openai:{self.model.replace(os.sep, '/').rsplit('/', 1)[-1]}"

    @property
    def version(self) -> str:
        return RUBRIC_VERSION

    @property
    def note(self) -> str:
        return f"the StrongREJECT rubric in our words, asked of {self.name.removeprefix('openai:')}; its agreement with people was not measured here"

    @property
    def agreement(self) -> Agreement | None:
        return None

    @cached_property
    def model(self) -> str:
        """The model's name as the server wants it."""
        if self.given_model:
            return self.given_model
        listed = self._asked("/models", None)
        try:
            return str(listed["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise JudgeError(
                f"the judge at {self.base} lists no model; name one: openai:{self.base}#MODEL"
            ) from None

    def verdict(self, prompt: str, completion: str) -> Verdict:
        return self.judge(prompt, completion).verdict

    def judged(self, prompts: Sequence[str], completions: Sequence[str]) -> Iterator[Judgement]:
        for prompt, completion in zip(prompts, completions, strict=True):
            yield self.judge(prompt, completion)

    def judge(self, prompt: str, completion: str) -> Judgement:
        wrong = what_is_wrong(completion, prompt)
        if wrong:
            return Judgement("degenerate", None, wrong)
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question(prompt, completion)},
        ]
        for reading in range(self.patience.readings):
            body = {
                "model": self.model,
                "messages": messages,
                "max_tokens": self.reply_tokens,
                "stream": False,
                # Asked for anew, a greedy reply would be the same again.
                "temperature": 0.0 if reading == 0 else 0.7,
                "seed": reading,
            }
            try:
                return read(_content(self._asked("/chat/completions", body))).judgement()
            except UnreadableReplyError:
                if reading + 1 == self.patience.readings:
                    raise
        raise AssertionError("readings is at least 1")

    def _asked(self, path: str, body: dict[str, Any] | None) -> Any:
        """The server's JSON; tried again while it is away or busy."""
        wait, reason = self.patience.wait, ""
        for attempt in range(self.patience.attempts):
            if attempt:
                time.sleep(wait)
                wait = min(2 * wait, self.patience.longest_wait)
            try:
                return _fetched(self.base + path, body, self.patience.timeout)
            except _BusyError as busy:
                reason, wait = str(busy), min(max(wait, busy.after), self.patience.longest_wait)
        raise JudgeError(
            f"the judge at {self.base} does not answer: {reason} ({self.patience.attempts} times); start it or mend the address, and run the "
            "same command again"
        )


class _BusyError(Exception):
    """Worth another attempt, `after` so many seconds at least."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _fetched(url: str, body: dict[str, Any] | None, timeout: float) -> Any:
    headers = {"Content-Type": "application/json", "User-Agent": "vectomy"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    direct = [urllib.request.ProxyHandler({})] if _loopback(urlsplit(url).hostname or "") else []
    try:
        with urllib.request.build_opener(_NoRedirect, *direct).open(request, timeout=timeout) as reply:
            text = reply.read(LONGEST_REPLY)
    except urllib.error.HTTPError as error:
        said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
        if error.code in BUSY:
            raise _BusyError(
                f"status {error.code} {said}", _seconds(error.headers.get("Retry-After"))
            ) from None
        raise JudgeError(
            f"the judge at {url} refuses the request: status {error.code} {_without_key(said)}{_remedy(error.code)}"
        ) from None
    except TimeoutError:
        raise _BusyError(f"no reply in {timeout:g} s") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise _BusyError(
            f"no reply in {timeout:g} s"
            if isinstance(reason, TimeoutError)
            else f"{type(reason).__name__}: {reason}"
        ) from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise JudgeError(
            f"what answers at {url} is no OpenAI-compatible server: its reply is not JSON; check the address"
        ) from None


def _content(reply: Any) -> str:
    try:
        return str(reply["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError):
        raise UnreadableReplyError(
            "the judge's reply holds no choices[0].message.content; is it an OpenAI-compatible server?"
        ) from None


def _seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        return 0.0


def _remedy(status: int) -> str:
    return {
        401: f"; set ${KEY}",
        403: f"; set ${KEY}",
        404: "; name the model (openai:URL#MODEL), or mend the path",
        400: "; is the completion longer than its context?",
    }.get(status, "")


def _without_key(text: str) -> str:
    key = os.environ.get(KEY)
    return text.replace(key, "***") if key else text


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked(url: str) -> str:
    """The address that paths are put behind.

    Raises:
        UsageError: it is no http address, holds a password, or would carry the key in the clear.
    """
    try:
        parts = urlsplit(url)
        host, user = parts.hostname, parts.username or parts.password
        _ = parts.port
    except ValueError:
        host, user, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(
            f"the judge openai:{url} needs an address like openai:http://127.0.0.1:8080 or openai:https://HOST/v1#MODEL"
        )
    if user:
        raise UsageError(
            f"the address of the judge at {host} holds a user or password; give a key in ${KEY} instead"
        )
    if parts.scheme == "http" and os.environ.get(KEY) and not _loopback(host):
        raise UsageError(
            f"the judge at {host} would get the key of ${KEY} unencrypted; give an https address, or unset it"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
