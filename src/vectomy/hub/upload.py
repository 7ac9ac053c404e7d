"""Send files to a repository in one commit: it gets all of them or stays unchanged.

Large files are sent first, one by one; the Hub stores them by sha256, so a push that was cut off
finds them there and sends only the rest. One commit at the end makes them visible. Then the hashes
on the Hub are compared with the local ones.
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

__all__ = ["Destination", "Item", "Sent", "check_name", "look", "upload"]

# Files of this size or more are sent before the commit, smaller ones within it.
LARGE = 1 << 20
# The Hub writes these when it creates a repository.
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
    """The state of a repository. `private` is None if it does not exist; `files` are the names of
    its files.
    """

    repo_id: str
    revision: str
    private: bool | None = None
    files: tuple[str, ...] = ()

    @property
    def exists(self) -> bool:
        return self.private is not None


@dataclass(frozen=True)
class Sent:
    """Result of a push: the address and hash of its commit, the number of files compared with the
    Hub, and the names of older files that remain in the repository.
    """

    url: str
    commit: str
    files: int
    private: bool
    remaining: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"<Sent to {self.url:.100}: {self.files} files compared, {len(self.remaining)} older ones remain>"
        )


def check_name(repo_id: str) -> None:
    """Raises UsageError: the name is not OWNER/NAME."""
    if not is_repo_id(repo_id):
        raise UsageError(
            f"'{repo_id}' is not a repository name; give OWNER/NAME, where OWNER is you or an organisation"
        )


def look(repo_id: str, revision: str = "main") -> Destination:
    """The state of a repository; changes nothing.

    Raises:
        UsageError: the name is not OWNER/NAME.
        HubError: there is no token, or the Hub rejects the request or cannot be reached.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    check_name(repo_id)
    api = client(write=True)
    with hub_errors(f"looking at '{repo_id}'", repo_id):
        try:
            info = api.model_info(repo_id)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 404:
                return Destination(repo_id, revision)
            raise
        try:
            files = tuple(sorted(_list_files(api, repo_id, revision)))
        except RevisionNotFoundError:
            files = ()
    return Destination(repo_id, revision, bool(info.private), files)


def upload(
    destination: Destination,
    items: Sequence[Item],
    *,
    public: bool = False,
    replace: bool = False,
    message: str = "Upload with vectomy",
    log: Callable[[str], None] = lambda line: None,
) -> Sent:
    """Send `items` in one commit; a missing repository is created, private unless `public`.

    Args:
        public: make a new repository public, or allow writing to a public one.
        replace: delete the other files of the repository in the same commit.
        log: called with one line for each large file that was sent.

    Raises:
        HubError: the Hub rejects the request, the connection breaks, the repository is public and
            `public` is not set, or the files on the Hub differ from the sent ones. The same call
            again sends only the rest.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo, revision = destination.repo_id, destination.revision
    api = client(write=True)
    with hub_errors(f"pushing to '{repo}'", repo):
        if not destination.exists:
            api.create_repo(repo, private=not public, exist_ok=True)
        private = bool(api.model_info(repo).private)
        # Ask again: someone may have changed it since `look`.
        if not private and not public:
            raise HubError(
                f"'{repo}' is public; nothing was sent. Pass --public to publish there, make it "
                "private in its "
                "settings, or choose another name"
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
            log(f"{number} of {len(large)} large files: {item.name} sent ({time.monotonic() - began:.1f} s)")
        others = [
            name
            for name in destination.files
            if name not in {item.name for item in items} and name not in OF_THE_HUB
        ]
        deletions = [CommitOperationDelete(name) for name in others] if replace else []
        commit = api.create_commit(repo, [*additions, *deletions], commit_message=message, revision=revision)
        _compare(_list_files(api, repo, revision), items, additions, repo)
    return Sent(commit.commit_url, commit.oid, len(items), private, () if replace else tuple(others))


def _list_files(api: Any, repo_id: str, revision: str) -> JsonObject:
    """The files of a repository by name, with their hashes."""
    return {
        file.path: file
        for file in api.list_repo_tree(repo_id, recursive=True, revision=revision)
        if _is_file(file)
    }


def _is_file(entry: Any) -> bool:
    return getattr(entry, "blob_id", None) is not None


def _compare(stored: dict[str, Any], items: Sequence[Item], additions: Sequence[Any], repo_id: str) -> None:
    """Raise HubError unless each file has the same hash on the Hub and here."""
    for item, addition in zip(items, additions, strict=True):
        file = stored.get(item.name)
        if file is None:
            raise HubError(
                f"'{repo_id}' does not hold {item.name} after the push (is it in its .gitignore?); push again"
            )
        if file.lfs is not None:
            same = file.lfs.sha256 == addition.upload_info.sha256.hex()
        else:
            same = file.blob_id == _git_hash(item)
        if not same:
            raise HubError(f"{item.name} on '{repo_id}' differs from the file that was sent; push again")


def _git_hash(item: Item) -> str:
    """The git blob hash of a small file."""
    data = item.source if isinstance(item.source, bytes) else item.source.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
