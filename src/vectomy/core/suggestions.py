"""The names that a misspelt one comes near to, for the end of a message. Loads no torch."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["near_name", "near_path", "suggest", "suggest_path"]

# Above difflib's 0.6, at which `missing.txt` comes near to `long.txt`.
CUTOFF = 0.65


def near_name(name: str, choices: Iterable[str]) -> str | None:
    """The choice that `name` is most like; case does not count. None where none is near."""
    by_folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=CUTOFF)
    return by_folded[near[0]] if near else None


def near_path(path: Path) -> Path | None:
    """The file or folder that lies where `path` does not, and has a name like it."""
    try:
        entries = [entry for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except (OSError, ValueError):
        return None
    same_suffix = [entry for entry in entries if entry.suffix.lower() == path.suffix.lower()]
    # By the stem: a shared suffix makes no two names alike.
    for group in (same_suffix, entries):
        near = near_name(path.stem, (entry.stem for entry in group))
        if near is not None:
            return next(entry for entry in group if entry.stem == near)
    return None


def suggest(name: str, choices: Iterable[str]) -> str:
    """` (did you mean CHOICE?)`, or nothing where no choice is near."""
    near = near_name(name, choices)
    return "" if near is None else f" (did you mean {near}?)"


def suggest_path(path: str | Path) -> str:
    """` (did you mean PATH?)` for a path that does not exist, or nothing where no name is near."""
    near = near_path(Path(os.path.expanduser(path)))
    return "" if near is None else f" (did you mean {near}?)"
