"""The licence of a base model as its own card states it; never guessed."""

from __future__ import annotations

from pathlib import Path

from vectomy.hub.client import is_repo_id
from vectomy.hub.frontmatter import frontmatter

__all__ = ["licence_in", "licence_of"]

# Keys of the front matter: the licence, and for `other` its name and address.
KEYS = ("license", "license_name", "license_link")


def licence_in(folder: Path) -> dict[str, str] | None:
    """The licence in the card of a model folder; None if there is no card or no licence in it."""
    return _read(folder / "README.md")


def licence_of(repo_id: str, *, offline: bool = False) -> dict[str, str] | None:
    """The licence in the card on the Hub; None if there is none or the Hub cannot be reached.

    Args:
        offline: look into the Hub's cache alone.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not is_repo_id(repo_id):
        return None
    try:
        return _read(Path(hf_hub_download(repo_id, "README.md", local_files_only=offline)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None


def _read(card: Path) -> dict[str, str] | None:
    metadata = frontmatter(card)
    if not isinstance(metadata.get("license"), str | list):
        return None
    if isinstance(metadata["license"], list):
        metadata["license"] = next((item for item in metadata["license"] if isinstance(item, str)), "")
    licence = {
        key: metadata[key] for key in KEYS if isinstance(metadata.get(key), str) and metadata[key].strip()
    }
    return licence if "license" in licence else None
