"""Access to the Hugging Face Hub: the client, and errors that name the remedy.

huggingface_hub finds the token (HF_TOKEN, or the one that `hf auth login` stored) and puts it into
the requests. No function here takes or returns a token, and every message passes `redact`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vectomy.core.errors import HubError, VectomyError
from vectomy.core.quoted_error import quote_error
from vectomy.core.repo_name import explain_gated

__all__ = ["client", "hub_errors", "is_repo_id", "redact", "secrets"]

# Environment variables that hold a secret.
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VECTOMY_JUDGE_KEY", "VECTOMY_ENGINE_KEY")
TOKEN_SHAPE = re.compile(r"hf_[A-Za-z0-9_]*[A-Za-z0-9]{16,}")
# Shorter values may be ordinary words.
SHORTEST = 8
# The HTTP libraries of the various versions of huggingface_hub.
HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
AGAIN = "run the same command again; files that have arrived are not sent again"


def is_repo_id(text: str) -> bool:
    """Whether `text` has the form OWNER/NAME, in the characters that the Hub allows."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", text) is not None


def client(write: bool = False) -> Any:
    """The client of huggingface_hub. Writing needs a token; reading uses one if there is one.

    Raises:
        HubError: there is no token to write with.
    """
    from huggingface_hub import HfApi, get_token

    if write and get_token() is None:
        raise HubError(
            "there is no Hugging Face token to push with; log in with `hf auth login`, or set HF_TOKEN to a "
            "token with write access"
        )
    # True: the library reads the token from its own places, and requires one.
    return HfApi(library_name="vectomy", token=True if write else None)


def secrets() -> tuple[str, ...]:
    """Values never to be shown or published: the Hub's token and the keys in this environment."""
    from huggingface_hub import get_token

    values = [get_token() or "", *(os.environ.get(name, "") for name in SECRET_VARIABLES)]
    return tuple(sorted({value.strip() for value in values if len(value.strip()) >= SHORTEST}))


def redact(text: str) -> str:
    """`text` without any token in it, on one line."""
    for value in secrets():
        text = text.replace(value, "hf_…")
    return " ".join(TOKEN_SHAPE.sub("hf_…", text).split())


@contextmanager
def hub_errors(doing: str, repo_id: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into a HubError with a remedy; other errors pass unchanged.

    The HubError has no cause: the library's error holds the request, which holds the token.
    """
    try:
        yield
    except VectomyError:
        raise
    except Exception as error:
        reason = _explain(error, repo_id)
        if reason is None:
            raise
        raise HubError(redact(f"{doing} failed: {reason}")) from None


def _explain(error: Exception, repo_id: str) -> str | None:
    """The cause and its remedy; None for an error that is not the Hub's."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalTokenNotFoundError

    chain = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in chain):
        return explain_gated(repo_id)
    for cause in chain:
        response = getattr(cause, "response", None)
        if response is not None and isinstance(getattr(response, "status_code", None), int):
            return _explain_status(response.status_code, cause, repo_id)
    if any(isinstance(cause, LocalTokenNotFoundError) for cause in chain):
        return "there is no Hugging Face token; log in with `hf auth login`, or set HF_TOKEN"
    if any(isinstance(cause, HFValidationError) for cause in chain):
        return f"'{repo_id}' is no repository name (OWNER/NAME)"
    last = chain[-1]
    network = [cause for cause in chain if type(cause).__module__.split(".")[0] in HTTP_LIBRARIES]
    if network or isinstance(last, ConnectionError | TimeoutError):
        reason = network[0] if network else last
        return (
            "the Hub cannot be reached, or the connection broke "
            f"({type(reason).__name__}: {_clip(str(reason))}); {AGAIN}"
        )
    # huggingface_hub raises ValueError for an answer that it cannot use (a refused card, for
    # example), and hf_xet raises RuntimeError for everything.
    if type(last) in (ValueError, RuntimeError):
        return _clip(str(last))
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _explain_status(status: int, error: BaseException, repo_id: str) -> str:
    owner = repo_id.partition("/")[0]
    headers = getattr(getattr(error, "response", None), "headers", {})
    wait = headers.get("Retry-After") or headers.get("retry-after")
    remedies = {
        400: "the Hub rejects the request",
        401: "the Hub does not accept the token; log in again with `hf auth login`, or set HF_TOKEN to a "
        "valid one",
        403: f"the token has no such right for '{owner}'; use one with write access to it (a fine-grained "
        "token lists its repositories), and check whether the account's storage is full",
        404: f"the Hub has no '{repo_id}' (or not this revision of it), or hides it from this token",
        409: f"someone else changed '{repo_id}' in the meantime; {AGAIN}",
        412: f"someone else changed '{repo_id}' in the meantime; {AGAIN}",
        413: "the request is too large for the Hub; push fewer files at a time",
        429: "the Hub asks for fewer requests; "
        f"wait {f'{wait} seconds' if wait else 'some minutes'}, then {AGAIN}",
    }
    remedy = remedies.get(
        status, f"the Hub has trouble; wait a little, then {AGAIN}" if status >= 500 else AGAIN
    )
    message = str(getattr(error, "server_message", None) or "")
    return f"{remedy} (status {status}{f', {_clip(message)}' if message else ''})"


def _clip(text: str, width: int = 200) -> str:
    # Redact before cutting: half a token no longer matches the pattern.
    return quote_error(redact(text), width)
