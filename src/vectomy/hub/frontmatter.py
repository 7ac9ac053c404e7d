"""What stands between the lines of dashes at the top of a card (README.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["frontmatter"]


def frontmatter(card: Path) -> dict[str, Any]:
    """The card's metadata; empty where there is no card, none in it, or none that can be read:
    cards are written by hand.
    """
    from huggingface_hub.repocard import metadata_load

    try:
        found: Any = metadata_load(card) if card.is_file() else None
    # PyYAML has errors of its own and lets those of Python through (`!!int ""` is an IndexError,
    # deep nesting a RecursionError).
    except Exception:  # noqa: BLE001
        return {}
    return found if isinstance(found, dict) else {}
