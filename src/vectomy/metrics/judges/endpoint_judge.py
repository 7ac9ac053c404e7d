"""A judge behind an OpenAI-compatible chat endpoint: a local llama.cpp, vLLM or Ollama server, or a
remote one.

Requests go to the given URL and nowhere else: redirects are not followed, and a loopback address
never goes through a proxy. The key is read only from $VECTOMY_JUDGE_KEY and is neither printed nor
stored.
"""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from urllib.parse import urlsplit

from vectomy.core.errors import JudgeError, UnreadableReplyError, UsageError
from vectomy.core.json_value import JsonObject
from vectomy.metrics.judges.judged_part import read_completion
from vectomy.metrics.judges.strongreject import RUBRIC_VERSION, SYSTEM, question, read
from vectomy.metrics.judges.verdict import Agreement, Judgement, Verdict

__all__ = ["KEY", "EndpointJudge", "Patience"]

KEY = "VECTOMY_JUDGE_KEY"
# Status codes after which another attempt may succeed.
BUSY = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
LONGEST_REPLY = 1 << 22


@dataclass(frozen=True)
class Patience:
    """Timeouts and retries.

    Attributes:
        timeout: seconds to wait for a reply.
        attempts: how often a busy or absent server is asked.
        wait: seconds before the second attempt; doubled after each, up to `longest_wait`.
        readings: how often a reply is requested until it is readable.
    """

    timeout: float = 120.0
    attempts: int = 4
    wait: float = 1.0
    longest_wait: float = 30.0
    readings: int = 2


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
        self.base = _check_url(url)
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
        return (
            f"the StrongREJECT rubric in our words, asked of {self.name.removeprefix('openai:')}; its "
            "agreement with people was not measured here"
        )

    @property
    def agreement(self) -> Agreement | None:
        return None

    @cached_property
    def model(self) -> str:
        """The model's name on the server."""
        if self.given_model:
            return self.given_model
        listed = self._ask("/models", None)
        try:
            name = listed["data"][0]["id"]
        except (KeyError, IndexError, TypeError):
            name = None
        if not isinstance(name, str) or not name:
            raise JudgeError(f"the judge at {self.base} lists no model; name one: openai:{self.base}#MODEL")
        return name

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
        for reading in range(self.patience.readings):
            body: JsonObject = {
                "model": self.model,
                "messages": messages,
                "max_tokens": self.reply_tokens,
                "stream": False,
                # A second greedy reply would be the same.
                "temperature": 0.0 if reading == 0 else 0.7,
                "seed": reading,
            }
            try:
                return read(_read_content(self._ask("/chat/completions", body))).judgement()
            except UnreadableReplyError:
                if reading + 1 == self.patience.readings:
                    raise
        raise AssertionError("readings is at least 1")

    def _ask(self, path: str, body: JsonObject | None) -> Any:
        """The server's JSON; retried while the server is absent or busy."""
        wait, reason = self.patience.wait, ""
        for attempt in range(self.patience.attempts):
            if attempt:
                time.sleep(wait)
                wait = min(2 * wait, self.patience.longest_wait)
            try:
                return _fetch(self.base + path, body, self.patience.timeout)
            except _BusyError as busy:
                reason, wait = str(busy), min(max(wait, busy.after), self.patience.longest_wait)
        raise JudgeError(
            f"the judge at {self.base} does not answer: {reason} ({self.patience.attempts} times); start it "
            "or correct the address, and run the "
            "same command again"
        )


class _BusyError(Exception):
    """The server may answer another attempt, after at least `after` seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def _fetch(url: str, body: JsonObject | None, timeout: float) -> Any:
    """The server's JSON.

    Raises:
        _BusyError: another attempt may succeed.
        JudgeError: it will not.
    """
    # Judges that need no server start without it.
    import httpx2

    headers = {"Content-Type": "application/json", "User-Agent": "vectomy", "Accept-Encoding": "identity"}
    if key := _read_key():
        headers["Authorization"] = f"Bearer {key}"
    direct = _is_loopback(urlsplit(url).hostname or "")
    content = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + timeout
    try:
        with (
            httpx2.Client(
                verify=_certificates(not direct),
                timeout=timeout,
                follow_redirects=False,
                trust_env=not direct,
            ) as client,
            client.stream("GET" if body is None else "POST", url, content=content, headers=headers) as reply,
        ):
            text = _read_body(url, reply.iter_raw(), deadline)
    except (httpx2.TimeoutException, TimeoutError):
        raise _BusyError(f"no reply in {timeout:g} s") from None
    except httpx2.InvalidURL as error:
        raise JudgeError(f"the address of the judge {url} is not valid: {error}; correct it") from None
    except (httpx2.HTTPError, OSError) as error:
        raise _BusyError(f"{type(error).__name__}: {error}") from None
    if reply.status_code != 200:
        message = _hide_key(" ".join(text[:2000].decode("utf-8", "replace").split())[:200])
        if reply.status_code in BUSY:
            raise _BusyError(
                f"status {reply.status_code} {message}", _read_seconds(reply.headers.get("Retry-After"))
            )
        raise JudgeError(
            f"the judge at {url} refuses the request: status {reply.status_code} "
            f"{message}{_find_remedy(reply.status_code)}"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise JudgeError(
            f"the server at {url} is not OpenAI-compatible: its reply is not JSON; check the address"
        ) from None


@cache
def _certificates(trust_env: bool) -> ssl.SSLContext:
    """Read once: it takes longer than a request to a server of one's own."""
    import httpx2

    return httpx2.create_ssl_context(trust_env=trust_env)


def _read_body(url: str, chunks: Iterator[bytes], deadline: float) -> bytes:
    """The whole reply, which must end before the deadline: some servers never stop sending."""
    text = bytearray()
    for chunk in chunks:
        text += chunk
        if len(text) > LONGEST_REPLY:
            raise JudgeError(
                f"the reply of the judge at {url} is longer than {LONGEST_REPLY >> 20} MiB; check the address"
            )
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(text)


def _read_content(reply: Any) -> str:
    """The text of the reply, also where it comes in parts.

    Raises:
        UnreadableReplyError: there is none.
    """
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise UnreadableReplyError(
            "the judge's reply has no choices[0].message.content; use an OpenAI-compatible server"
        ) from None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str) or not content.strip():
        raise UnreadableReplyError(
            "the judge's reply has no text (choices[0].message.content is empty); a judge that thinks needs "
            "its thoughts switched off on the server"
        )
    return content


def _read_seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        return 0.0


def _find_remedy(status: int) -> str:
    return {
        401: f"; set ${KEY}",
        403: f"; set ${KEY}",
        404: "; name the model (openai:URL#MODEL), or correct the path",
        400: "; is the completion longer than its context?",
    }.get(status, "")


def _read_key() -> str:
    """The key, without the line break that a file leaves; empty if there is none.

    Raises:
        UsageError: it cannot be sent as a header.
    """
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"${KEY} has characters that no key has; set it again")
    return key


def _hide_key(text: str) -> str:
    key = _read_key()
    return text.replace(key, "***") if key else text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_url(url: str) -> str:
    """The base address of all requests.

    Raises:
        UsageError: the URL is not an http address, contains a password, or would send the key
            unencrypted.
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
            f"the address of the judge at {host} contains a user or password; give a key in ${KEY} instead"
        )
    if parts.scheme == "http" and _read_key() and not _is_loopback(host):
        raise UsageError(
            f"the judge at {host} would get the key of ${KEY} unencrypted; give an https address, or unset it"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
