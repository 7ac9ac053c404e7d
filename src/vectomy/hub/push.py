"""Publish an edit: files are collected, searched for secrets and shown before a byte is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectomy.checkpoint.index import RECORDS
from vectomy.core.arguments import require, require_path
from vectomy.core.errors import ArtifactError
from vectomy.core.progress import Progress, silent
from vectomy.hub import Destination, Leak, Sent, check_leaks, check_name, find_leaks, look, upload
from vectomy.hub.package import Upload, pack
from vectomy.hub.provenance import hashes_in
from vectomy.hub.published_source import PublishedSource

__all__ = ["Push", "prepare", "push", "send"]


@dataclass(frozen=True)
class Push:
    """An upload and its destination; nothing has been sent yet."""

    upload: Upload
    destination: Destination
    looked: bool = True
    """Whether the repository was looked at; without a connection nothing is known of it."""

    def visibility(self, public: bool) -> str:
        """Whether the repository exists, and whether it is or will be public."""
        if not self.looked:
            return f"not looked at, {'public' if public else 'private'} if new"
        if not self.destination.exists:
            return "new, public" if public else "new, private"
        return "exists, private" if self.destination.private else "exists, PUBLIC"


def prepare(
    path: str | Path,
    repo_id: str,
    *,
    revision: str = "main",
    allow_paths: bool = False,
    offline: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Push:
    """Collect the files of `path`, search them for secrets, and look at the repository.

    Args:
        offline: do not look at the repository; no token is needed.
        options: keyword arguments of `package.pack`.

    Raises:
        LeakError: a token, or a path of this machine, in a file that would be sent.
        UsageError, HubError: the repository cannot be pushed to.
        EditError, ArtifactError, CheckpointError: `path` holds damaged or missing files.
    """
    check_name(repo_id)
    files = pack(path, repo_id, offline=offline, **options)
    _check_recorded(files.origin, progress)
    own = [folder for folder in (files.origin.path.resolve().parent, files.origin.run) if folder is not None]
    leaks: list[Leak] = []
    with progress("looking for tokens", files.bytes, "bytes") as update:
        for item in files.items:
            leaks += find_leaks(item.name, item.source, [folder.resolve() for folder in own])
            update(item.size)
    check_leaks(leaks, allow_paths)
    if offline:
        return Push(files, Destination(repo_id, revision), looked=False)
    return Push(files, look(repo_id, revision))


def _check_recorded(origin: PublishedSource, progress: Progress) -> None:
    """Raise ArtifactError if the weights changed after the Edit was applied."""
    if origin.record is None or not origin.record.tensors or origin.kind not in ("checkpoint", "adapter"):
        return
    actual, recorded = hashes_in(origin.path, origin.record.form, progress), origin.record.tensors
    changed = [name for name in sorted({*actual, *recorded}) if actual.get(name) != recorded.get(name)]
    if changed:
        raise ArtifactError(
            f"{len(changed)} tensors in {origin.path} changed after the Edit was applied "
            f"('{changed[0]}' is the "
            "first), so the card would be wrong. Apply the Edit again, or delete "
            f"{origin.path / RECORDS} and "
            "name the Edit with --from"
        )


def send(
    push: Push,
    *,
    public: bool = False,
    replace: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Sent:
    """Send the upload; files that an interrupted push has sent are not sent again.

    Raises:
        HubError: see hub.upload.
    """
    about = push.upload.origin.summary.get("behaviour") or "an edit"
    message = f"Upload {push.upload.kind} ({about}) with vectomy"
    return upload(
        push.destination, push.upload.items, public=public, replace=replace, message=message, log=log
    )


def push(
    path: str | Path, repo_id: str, *, public: bool = False, replace: bool = False, **options: Any
) -> Sent:
    """Publish an edited checkpoint, adapter, Edit, GGUF file or run on the Hugging Face Hub.

    Every file is scanned for tokens and paths before anything is sent. A new repository is private
    unless `public`.

    Args:
        path: the folder or file to publish.
        repo_id: OWNER/NAME; it is created if it does not exist.
        public: create a public repository, or push to an existing public one.
        replace: delete the other files of the repository.
        options: keyword arguments of `package.pack`: base_model, source, form, evaluations, card.

    Raises:
        ArtifactError, UsageError: `path` cannot be published, or was changed after the edit.
        LeakError: a file contains a token or a path of this machine.
        HubError: the Hub refused, or cannot be reached; the same call resumes.
    """
    require_path(path, "what to publish")
    require(repo_id, str, "the repository", "give OWNER/NAME")
    return send(prepare(path, repo_id, **options), public=public, replace=replace)
