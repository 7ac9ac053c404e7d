"""Send files to one repository, so that it holds them whole or is left as it was.

Large files go first, one by one; the Hub keeps them by their sha256, so a push that was cut off
finds them there and sends the rest. What a reader sees changes by one commit at the end. Afterwards
the Hub is asked what it holds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectomy.core.errors import HubError, UsageError
from vectomy.core.json_value import JsonObject
from vectomy.hub.client import client, hub_errors, is_repo_id

__all__ = ["Destination", "Item", "Sent", "look", "upload"]

# From this size on a file is sent before the commit; the Hub takes smaller ones within it.
LARGE = 1 << 20
# Written by the Hub when a repository is made.
OF_THE_HUB = (".gitattributes",)


@dataclass(frozen=True)
class Item:
    """One file: its name in the repository, and where its bytes are."""

    name: str
    source: Path | bytes

    @property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class Destination:
    """A repository as it was found. `private` is None where it does not exist; `held` are the names
    of its files.
    """

    repo_id: str
    revision: str
    private: bool | None = None
    held: tuple[str, ...] = ()

    @property
    def exists(self) -> bool:
        return self.private is not None


@dataclass(frozen=True)
class Sent:
    """What a push did: the address of its commit, how many files were checked there, and the names
    that stay beside them.
    """

    url: str
    commit: str
    files: int
    private: bool
    stays: tuple[str, ...]


def look(repo_id: str, revision: str = "main") -> Destination:
    """What is there now; changes nothing.

    Raises:
        UsageError: the name is not OWNER/NAME.
        HubError: no token, or the Hub refuses or cannot be reached.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if not is_repo_id(repo_id):
        raise UsageError(
            f"'{repo_id}' is no repository name; give OWNER/NAME, where OWNER is you or an organisation"
        )
    api = client(write=True)
    with hub_errors(f"looking at '{repo_id}'", repo_id):
        try:
            info = api.model_info(repo_id)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 404:
                return Destination(repo_id, revision)
            raise
        try:
            held = tuple(sorted(_held(api, repo_id, revision)))
        except RevisionNotFoundError:
            held = ()
    return Destination(repo_id, revision, bool(info.private), held)


def upload(
    destination: Destination,
    items: Sequence[Item],
    *,
    public: bool = False,
    replace: bool = False,
    message: str = "Upload with vectomy",
    tell: Callable[[str], None] = lambda line: None,
) -> Sent:
    """Send `items` in one commit; the repository is made if it does not exist, private unless
    `public`.

    Args:
        public: make a new repository public, or write to one that is.
        replace: delete what else the repository holds, in the same commit.
        tell: takes a line for each large file that is there.

    Raises:
        HubError: the Hub refuses, the connection breaks, a public repository without `public`, or
            what the Hub holds afterwards is not what was sent. The same call again goes on.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo, revision = destination.repo_id, destination.revision
    api = client(write=True)
    with hub_errors(f"pushing to '{repo}'", repo):
        if not destination.exists:
            api.create_repo(repo, private=not public, exist_ok=True)
        private = bool(api.model_info(repo).private)
        # Asked again, not taken from before: between looking and sending someone may have changed
        # it.
        if not private and not public:
            raise HubError(
                f"'{repo}' is public; nothing was sent. Say --public to publish there, make it private in its settings, or choose another name"
            )
        if revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        additions = [
            CommitOperationAdd(item.name, item.source if isinstance(item.source, bytes) else str(item.source))
            for item in items
        ]
        large = [
            (item, addition) for item, addition in zip(items, additions, strict=True) if item.size >= LARGE
        ]
        for number, (item, addition) in enumerate(large, 1):
            began = time.monotonic()
            api.preupload_lfs_files(repo, [addition], revision=revision, free_memory=False)
            tell(
                f"{number} of {len(large)} large files: {item.name} is there ({time.monotonic() - began:.1f} s)"
            )
        others = [
            name
            for name in destination.held
            if name not in {item.name for item in items} and name not in OF_THE_HUB
        ]
        deletions = [CommitOperationDelete(name) for name in others] if replace else []
        commit = api.create_commit(repo, [*additions, *deletions], commit_message=message, revision=revision)
        _check(_held(api, repo, revision), items, additions, repo)
    return Sent(commit.commit_url, commit.oid, len(items), private, () if replace else tuple(others))


def _held(api: Any, repo_id: str, revision: str) -> JsonObject:
    """The files of a repository by name, with the hashes that the Hub has of them."""
    return {
        file.path: file
        for file in api.list_repo_tree(repo_id, recursive=True, revision=revision)
        if _is_file(file)
    }


def _is_file(entry: Any) -> bool:
    return getattr(entry, "blob_id", None) is not None


def _check(held: dict[str, Any], items: Sequence[Item], additions: Sequence[Any], repo_id: str) -> None:
    """Raises HubError unless the Hub holds each file with the hash that it has here."""
    for item, addition in zip(items, additions, strict=True):
        file = held.get(item.name)
        if file is None:
            raise HubError(
                f"'{repo_id}' does not hold {item.name} after the push (is it in its .gitignore?); push again"
            )
        if file.lfs is not None:
            same = file.lfs.sha256 == addition.upload_info.sha256.hex()
        else:
            same = file.blob_id == _git_hash(item)
        if not same:
            raise HubError(f"{item.name} on '{repo_id}' is not the file that was sent; push again")


def _git_hash(item: Item) -> str:
    """What git calls a file of this content (small files alone)."""
    data = item.source if isinstance(item.source, bytes) else item.source.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
