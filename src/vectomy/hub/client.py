"""Access to the Hub: the token from its usual places, never held or shown by us, and clear words
for what went wrong.

huggingface_hub finds the token (HF_TOKEN, or what `hf auth login` stored) and puts it into the
requests. Nothing here takes one as an argument, and every message passes `redacted`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vectomy.core.errors import HubError, VectomyError

__all__ = ["client", "hub_errors", "is_repo_id", "redact", "secrets"]

# Environment variables that the Hub's library and vectomy read a secret from.
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VECTOMY_JUDGE_KEY")
TOKEN_SHAPE = re.compile(r"hf_[A-Za-z0-9_]*[A-Za-z0-9]{16,}")
# Shorter values are words; hiding them would hide words.
SHORTEST = 8
# huggingface_hub speaks HTTP with one of these, by its version.
HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


def is_repo_id(text: str) -> bool:
    """Whether it is written as OWNER/NAME, with the characters that the Hub allows."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", text) is not None


def client(write: bool = False) -> Any:
    """The library's client. To write there must be a token; to read, one is used if there is one.

    Raises:
        HubError: there is no token to write with.
    """
    from huggingface_hub import HfApi, get_token

    if write and get_token() is None:
        raise HubError(
            "there is no Hugging Face token to push with; log in with `hf auth login`, or set HF_TOKEN to a token that may write"
        )
    # True: of the library's own places, and required; the value stays there.
    return HfApi(library_name="vectomy", token=True if write else None)


def secrets() -> tuple[str, ...]:
    """The values that must not be shown or published: the Hub's token and the keys of this
    environment. Not for output.
    """
    from huggingface_hub import get_token

    found = [get_token() or "", *(os.environ.get(name, "") for name in SECRET_VARIABLES)]
    return tuple(sorted({value.strip() for value in found if len(value.strip()) >= SHORTEST}))


def redact(text: str) -> str:
    """`text` without any token in it, on one line."""
    for value in secrets():
        text = text.replace(value, "hf_…")
    return " ".join(TOKEN_SHAPE.sub("hf_…", text).split())


@contextmanager
def hub_errors(doing: str, repo_id: str) -> Iterator[None]:
    """Turn what the Hub's library raises into a HubError that says what to do; mistakes in this
    program pass.

    The error shows no cause: what the library raises holds the request, and the request holds the
    token.
    """
    try:
        yield
    except VectomyError:
        raise
    except Exception as error:
        said = _said(error, repo_id)
        if said is None:
            raise
        raise HubError(redact(f"{doing} failed: {said}")) from None


def _said(error: Exception, repo_id: str) -> str | None:
    """What went wrong, in words with the remedy; None for what is none of the Hub's doing."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

    chain = list(_chain(error))
    for one in chain:
        response = getattr(one, "response", None)
        if response is not None and isinstance(getattr(response, "status_code", None), int):
            return _of_status(response.status_code, one, repo_id)
    if any(isinstance(one, LocalTokenNotFoundError) for one in chain):
        return "there is no Hugging Face token; log in with `hf auth login`, or set HF_TOKEN"
    if any(isinstance(one, HFValidationError) for one in chain):
        return f"'{repo_id}' is no repository name (OWNER/NAME)"
    last = chain[-1]
    reached = [one for one in chain if type(one).__module__.split(".")[0] in HTTP_LIBRARIES]
    if reached or isinstance(last, ConnectionError | TimeoutError):
        reason = reached[0] if reached else last
        return (
            f"the Hub cannot be reached, or the connection broke ({type(reason).__name__}: {_clipped(str(reason))}); run the same "
            "command again, what has arrived is not transferred again"
        )
    # What the library says of an answer that it cannot use (a card that is refused, say), and
    # hf_xet of anything.
    if type(last) in (ValueError, RuntimeError):
        return _clipped(str(last))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _of_status(status: int, error: BaseException, repo_id: str) -> str:
    owner = repo_id.partition("/")[0]
    again = "run the same command again, what has arrived is not transferred again"
    headers = getattr(getattr(error, "response", None), "headers", {})
    wait = headers.get("Retry-After") or headers.get("retry-after")
    remedies = {
        400: "the Hub refuses what was sent",
        401: "the Hub does not accept the token; log in anew with `hf auth login`, or set HF_TOKEN to a valid one",
        403: f"the token may not do that for '{owner}'; use one with write access to it (a fine-grained token names its repositories), "
        "and look whether the account's storage is used up",
        404: f"the Hub knows no '{repo_id}' (or not this revision of it), or does not show it to this token",
        409: f"'{repo_id}' was changed meanwhile by someone else; {again}",
        412: f"'{repo_id}' was changed meanwhile by someone else; {again}",
        413: "the Hub takes no request of that size; push fewer files at a time",
        429: f"the Hub asks for fewer requests; wait {f'{wait} seconds' if wait else 'some minutes'}, then {again}",
    }
    remedy = remedies.get(
        status, f"the Hub has trouble; wait a little, then {again}" if status >= 500 else again
    )
    message = str(getattr(error, "server_message", None) or "")
    return f"{remedy} (status {status}{f', {_clipped(message)}' if message else ''})"


def _clipped(text: str, width: int = 200) -> str:
    # Before it is cut: half of a token has no shape to know it by.
    line = redact(text)
    return line if len(line) <= width else line[: width - 1] + "…"
