"""Download of a published repository."""

from __future__ import annotations

from pathlib import Path

from vectomy.core.suggestions import suggest_path
from vectomy.hub.client import hub_errors

__all__ = ["download"]


def download(repo_id: str, revision: str | None = None) -> Path:
    """Fetch a whole repository into the Hub's cache; files in the cache are not fetched again.

    Raises:
        HubError: the repository does not exist, is not accessible, or the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from vectomy.core.errors import HubError

    with hub_errors(f"fetching '{repo_id}'", repo_id):
        try:
            return Path(snapshot_download(repo_id, revision=revision))
        except LocalEntryNotFoundError:
            raise HubError(
                f"no folder {repo_id} here{suggest_path(repo_id)} (`vectomy ls` lists runs), and the Hub "
                "could not be asked: its cache does not hold the whole repository; check the name, "
                "the network and HF_HUB_OFFLINE"
            ) from None
