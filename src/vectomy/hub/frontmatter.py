"""The YAML front matter of a model card (README.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["frontmatter"]


def frontmatter(card: Path) -> dict[str, Any]:
    """The metadata of `card`; empty if the card does not exist, has none, or cannot be parsed."""
    from huggingface_hub.repocard import metadata_load

    try:
        metadata: Any = metadata_load(card) if card.is_file() else None
    # Besides its own errors PyYAML raises IndexError (`!!int ""`) and RecursionError (deep
    # nesting).
    except Exception:  # noqa: BLE001
        return {}
    return metadata if isinstance(metadata, dict) else {}
