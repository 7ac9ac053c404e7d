"""Fetch a published repository, to compare with."""

from __future__ import annotations

from pathlib import Path

from vectomy.hub.client import hub_errors

__all__ = ["download"]


def download(repo_id: str, revision: str | None = None) -> Path:
    """The folder of a whole repository in the Hub's cache; files that are there already are not
    fetched again.

    Raises:
        HubError: the Hub does not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from vectomy.core.errors import HubError

    with hub_errors(f"fetching '{repo_id}'", repo_id):
        try:
            return Path(snapshot_download(repo_id, revision=revision))
        except LocalEntryNotFoundError:
            raise HubError(
                f"fetching '{repo_id}' failed: the Hub cannot be reached or does not answer, and it is not in the cache whole; "
                "check the network and HF_HUB_OFFLINE"
            ) from None
