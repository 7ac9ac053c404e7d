"""Publish an edit: everything is gathered, looked through for what must stay here, and shown,
before a byte is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectomy.checkpoint.index import RECORDS
from vectomy.core.errors import ArtifactError
from vectomy.core.progress import Progress, silent
from vectomy.hub import Destination, Sent, check_leaks, find_leaks, look, upload
from vectomy.hub.package import Upload, pack
from vectomy.hub.provenance import hashes_in
from vectomy.hub.published_source import PublishedSource

__all__ = ["Push", "prepare", "push", "send"]


@dataclass(frozen=True)
class Push:
    """A parcel and where it goes; nothing has been sent yet."""

    parcel: Upload
    destination: Destination

    def visibility(self, public: bool) -> str:
        """What the repository is, or will be."""
        if not self.destination.exists:
            return "new, public" if public else "new, private"
        return "exists, private" if self.destination.private else "exists, PUBLIC"


def prepare(
    path: str | Path,
    repo_id: str,
    *,
    revision: str = "main",
    allow_paths: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Push:
    """Gather what `path` is (parcel.pack takes the options), look it through, and look at the
    repository.

    Raises:
        LeakError: a token, or a path of this machine, in a file that would be sent.
        UsageError, HubError: no such repository can be pushed to.
        EditError, ArtifactError, CheckpointError: what `path` holds is not whole.
    """
    parcel = pack(path, repo_id, **options)
    _check_recorded(parcel.origin, progress)
    own = [
        folder for folder in (parcel.origin.path.resolve().parent, parcel.origin.run) if folder is not None
    ]
    found = []
    with progress("looking for tokens", parcel.bytes, "bytes") as update:
        for item in parcel.items:
            found += find_leaks(item.name, item.source, [folder.resolve() for folder in own])
            update(item.size)
    check_leaks(found, allow_paths)
    return Push(parcel, look(repo_id, revision))


def _check_recorded(origin: PublishedSource, progress: Progress) -> None:
    """Raises ArtifactError where the weights are not those that were recorded when the Edit was
    applied.
    """
    if origin.record is None or not origin.record.tensors or origin.kind not in ("checkpoint", "adapter"):
        return
    found, recorded = hashes_in(origin.path, origin.record.form, progress), origin.record.tensors
    other = [name for name in sorted({*found, *recorded}) if found.get(name) != recorded.get(name)]
    if other:
        raise ArtifactError(
            f"{len(other)} tensors in {origin.path} are not as they were when the Edit was applied ('{other[0]}' is the first); the card would "
            f"say what is not so. Apply the Edit again, or delete {origin.path / RECORDS} and name the Edit with --from"
        )


def send(
    push: Push,
    *,
    public: bool = False,
    replace: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Sent:
    """Send it; what an interrupted push has sent is not sent again.

    Raises:
        HubError: see hub.upload.
    """
    about = push.parcel.origin.summary.get("behaviour") or "an edit"
    message = f"Upload {push.parcel.kind} ({about}) with vectomy"
    return upload(
        push.destination, push.parcel.items, public=public, replace=replace, message=message, tell=tell
    )


def push(
    path: str | Path, repo_id: str, *, public: bool = False, replace: bool = False, **options: Any
) -> Sent:
    """Publish at once what `prepare` gathers; private unless `public`.

    Raises:
        VectomyError: as `prepare` and `send`.
    """
    return send(prepare(path, repo_id, **options), public=public, replace=replace)
