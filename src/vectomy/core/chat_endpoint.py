"""An OpenAI-compatible chat endpoint: a local llama.cpp, vLLM or Ollama server, or a remote one.

Requests go to the given URL and nowhere else: redirects are not followed, and a loopback address
never goes through a proxy. The key is read only from the named environment variable and is neither
printed nor stored.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar
from urllib.parse import urlsplit

from vectomy.core.errors import UsageError, VectomyError
from vectomy.core.json_value import JsonObject

__all__ = ["LONGEST_REPLY", "PREFIX", "ChatEndpoint", "Patience", "split_endpoint", "without_addresses"]

PREFIX = "openai:"
"""What a name of an endpoint begins with: openai:URL[#MODEL]."""
# Status codes after which another attempt may succeed.
BUSY = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
LONGEST_REPLY = 1 << 22
_NAMED = re.compile(rf"{PREFIX}https?://[^\s'\"#]*(?:#([^\s'\"]*))?", re.IGNORECASE)


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


class ChatEndpoint:
    """One server with one of its models. A subclass says what it is called in messages, where its
    key comes from, and its classes of errors.

    Args:
        url: the server (http://127.0.0.1:8080), its /v1, or the whole path.
        model: None takes the first model that the server lists.

    Raises:
        UsageError: the URL is not an http address, contains a password, or would send the key
            unencrypted.
    """

    NOUN: ClassVar[str]
    KEY: ClassVar[str]
    ERROR: ClassVar[type[VectomyError]]
    UNREADABLE: ClassVar[type[VectomyError]]
    """Of a reply that has no text."""

    def __init__(self, url: str, model: str | None = None, patience: Patience | None = None) -> None:
        self.base = self._check_url(url)
        self._given, self.patience = model, patience or Patience()

    @cached_property
    def model(self) -> str:
        """The model's name on the server."""
        if self._given:
            return self._given
        listed = self.ask("/models", None)
        try:
            name = listed["data"][0]["id"]
        except (KeyError, IndexError, TypeError):
            name = None
        if not isinstance(name, str) or not name:
            raise self.ERROR(
                f"the {self.NOUN} at {self.base} lists no model; name one: {PREFIX}{self.base}#MODEL"
            )
        return name

    @property
    def short_model(self) -> str:
        """The model's name without the folder of the server's machine."""
        return self.model.replace(os.sep, "/").rsplit("/", 1)[-1]

    def complete(self, body: JsonObject) -> JsonObject:
        """The message that the model replies with.

        Args:
            body: the request but for the model's name.

        Raises:
            `ERROR`: the server does not answer, or refuses the request.
            `UNREADABLE`: the reply has no message.
        """
        reply = self.ask("/chat/completions", {"model": self.model, **body, "stream": False})
        try:
            message = reply["choices"][0]["message"]
            _ = message["content"]
        except (KeyError, IndexError, TypeError):
            raise self.UNREADABLE(
                f"the reply of the {self.NOUN} at {self.base} has no choices[0].message.content; use an "
                "OpenAI-compatible server"
            ) from None
        result: JsonObject = message
        return result

    def ask(self, path: str, body: JsonObject | None) -> Any:
        """The server's JSON; retried while the server is absent or busy."""
        wait, reason = self.patience.wait, ""
        for attempt in range(self.patience.attempts):
            if attempt:
                time.sleep(wait)
                wait = min(2 * wait, self.patience.longest_wait)
            try:
                return self._fetch(self.base + path, body)
            except _BusyError as busy:
                reason, wait = str(busy), min(max(wait, busy.after), self.patience.longest_wait)
        raise self.ERROR(
            f"the {self.NOUN} at {self.base} does not answer: {reason} ({self.patience.attempts} times); "
            "start it or correct the address, and run the same command again"
        )

    def _fetch(self, url: str, body: JsonObject | None) -> Any:
        """The server's JSON.

        Raises:
            _BusyError: another attempt may succeed.
            `ERROR`: it will not.
        """
        # Work that needs no server starts without it.
        import httpx2

        headers = {"Content-Type": "application/json", "User-Agent": "vectomy", "Accept-Encoding": "identity"}
        if key := self._read_key():
            headers["Authorization"] = f"Bearer {key}"
        direct = _is_loopback(urlsplit(url).hostname or "")
        content = None if body is None else json.dumps(body).encode()
        timeout = self.patience.timeout
        deadline = time.monotonic() + timeout
        try:
            with (
                httpx2.Client(
                    verify=_certificates(not direct),
                    timeout=timeout,
                    follow_redirects=False,
                    trust_env=not direct,
                ) as client,
                client.stream(
                    "GET" if body is None else "POST", url, content=content, headers=headers
                ) as reply,
            ):
                text = self._read_body(url, reply.iter_raw(), deadline)
        except (httpx2.TimeoutException, TimeoutError):
            raise _BusyError(f"no reply in {timeout:g} s") from None
        except httpx2.InvalidURL as error:
            raise self.ERROR(
                f"the address of the {self.NOUN} {url} is not valid: {error}; correct it"
            ) from None
        except (httpx2.HTTPError, OSError) as error:
            raise _BusyError(f"{type(error).__name__}: {error}") from None
        if reply.status_code != 200:
            message = self._hide_key(" ".join(text[:2000].decode("utf-8", "replace").split())[:200])
            if reply.status_code in BUSY:
                raise _BusyError(
                    f"status {reply.status_code} {message}", _read_seconds(reply.headers.get("Retry-After"))
                )
            raise self.ERROR(
                f"the {self.NOUN} at {url} refuses the request: status {reply.status_code} "
                f"{message}{self._find_remedy(reply.status_code)}"
            )
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise self.ERROR(
                f"the server at {url} is not OpenAI-compatible: its reply is not JSON; check the address"
            ) from None

    def _read_body(self, url: str, chunks: Iterator[bytes], deadline: float) -> bytes:
        """The whole reply, which must end before the deadline: some servers never stop sending."""
        text = bytearray()
        for chunk in chunks:
            text += chunk
            if len(text) > LONGEST_REPLY:
                raise self.ERROR(
                    f"the reply of the {self.NOUN} at {url} is longer than {LONGEST_REPLY >> 20} MiB; check "
                    "the address"
                )
            if time.monotonic() > deadline:
                raise TimeoutError
        return bytes(text)

    def _find_remedy(self, status: int) -> str:
        return {
            401: f"; set ${self.KEY}",
            403: f"; set ${self.KEY}",
            404: f"; name the model ({PREFIX}URL#MODEL), or correct the path",
            400: "; is the text longer than its context?",
        }.get(status, "")

    def _read_key(self) -> str:
        """The key, without the line break that a file leaves; empty if there is none.

        Raises:
            UsageError: it cannot be sent as a header.
        """
        key = os.environ.get(self.KEY, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UsageError(f"${self.KEY} has characters that no key has; set it again")
        return key

    def _hide_key(self, text: str) -> str:
        key = self._read_key()
        return text.replace(key, "***") if key else text

    def _check_url(self, url: str) -> str:
        """The base address of all requests."""
        try:
            parts = urlsplit(url)
            host, user = parts.hostname, parts.username or parts.password
            _ = parts.port
        except ValueError:
            host, user, parts = None, None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError(
                f"the {self.NOUN} {PREFIX}{url} needs an address like {PREFIX}http://127.0.0.1:8080 or "
                f"{PREFIX}https://HOST/v1#MODEL"
            )
        if user:
            raise UsageError(
                f"the address of the {self.NOUN} at {host} contains a user or password; give a key in "
                f"${self.KEY} instead"
            )
        if parts.scheme == "http" and self._read_key() and not _is_loopback(host):
            raise UsageError(
                f"the {self.NOUN} at {host} would get the key of ${self.KEY} unencrypted; give an https "
                "address, or unset it"
            )
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def split_endpoint(name: str) -> tuple[str, str | None] | None:
    """URL and model of `openai:URL[#MODEL]`; None if the name is another."""
    if not name.startswith(PREFIX) or name == PREFIX:
        return None
    url, _, model = name.removeprefix(PREFIX).partition("#")
    return url, model or None


def without_addresses(text: str) -> str:
    """`text` with the models of the servers in it alone: openai:URL#MODEL becomes openai:MODEL."""
    return _NAMED.sub(lambda match: f"{PREFIX}{(match[1] or 'server').rsplit('/', 1)[-1]}", text)


class _BusyError(Exception):
    """The server may answer another attempt, after at least `after` seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@cache
def _certificates(trust_env: bool) -> ssl.SSLContext:
    """Read once: it takes longer than a request to a server of one's own."""
    import httpx2

    return httpx2.create_ssl_context(trust_env=trust_env)


def _read_seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        return 0.0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
