"""The licence of a base model, as its own card states it: passed on, never guessed."""

from __future__ import annotations

from pathlib import Path

from vectomy.hub.client import is_repo_id
from vectomy.hub.frontmatter import frontmatter

__all__ = ["licence_in", "licence_of"]

# The front matter's own keys: the licence, and for `other` its name and where it is.
KEYS = ("license", "license_name", "license_link")


def licence_in(folder: Path) -> dict[str, str] | None:
    """What the card in a model folder says, or None where there is no card or it does not say."""
    return _read(folder / "README.md")


def licence_of(repo_id: str) -> dict[str, str] | None:
    """What the card on the Hub says; None where there is none to be had, offline too."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not is_repo_id(repo_id):
        return None
    try:
        return _read(Path(hf_hub_download(repo_id, "README.md")))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
        return None


def _read(card: Path) -> dict[str, str] | None:
    found = frontmatter(card)
    if not isinstance(found.get("license"), str | list):
        return None
    if isinstance(found["license"], list):
        found["license"] = next((entry for entry in found["license"] if isinstance(entry, str)), "")
    held = {key: found[key] for key in KEYS if isinstance(found.get(key), str) and found[key].strip()}
    return held if "license" in held else None
