"""What this project keeps in its cache folder, and its removal. Loads no torch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vectomy.core.file_lock import hold_lock
from vectomy.core.json_value import JsonObject
from vectomy.core.run_folder import cache_folder
from vectomy.core.write_errors import name_write_errors

__all__ = ["CacheEntry", "list_cache", "remove_entry"]

# Names that this project gives; nothing else in the folder is looked at or touched.
KINDS = {
    re.compile(r"demo-[0-9a-f]{12}"): ("the demo model", "demo.lock"),
    re.compile(r"demo-base-[0-9a-f]{12}"): ("the base of the demo model", "demo.lock"),
    re.compile(r"(gguf-[0-9a-f]{16}-\w+)"): ("weights of a GGUF file in bfloat16", "{0}.lock"),
    re.compile(r"edits"): ("Edits that an evaluation was given as objects", "edits.lock"),
}
LEFTOVERS = (".partial", ".base")
# A fetched package, unpacked while the demo model is made; the rest of its name is random.
FETCHED = re.compile(r"demo-weights\.\w+")


@dataclass(frozen=True)
class CacheEntry:
    """A folder in the cache, which the command that needs it makes again."""

    path: Path
    what: str
    bytes: int
    date: str
    """Of the newest file, UTC, to the second (ISO 8601)."""
    lock: Path
    """Held while a process makes the folder."""

    def to_json(self) -> JsonObject:
        return {"path": str(self.path), "what": self.what, "bytes": self.bytes, "date": self.date}


def list_cache(folder: Path | None = None) -> list[CacheEntry]:
    """What this project keeps, largest first.

    Args:
        folder: the cache; `cache_folder()` if not given.
    """
    folder = folder or cache_folder()
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    entries = [entry for path in paths if (entry := _read_entry(path)) is not None]
    return sorted(entries, key=lambda entry: -entry.bytes)


def remove_entry(entry: CacheEntry) -> bool:
    """Remove a folder of the cache, which another process may have removed meanwhile. False if a
    process is making it just now.

    It first gets a name that no command reads: a command that opens it then finds nothing, and
    makes it again, instead of half of it.

    Raises:
        ArtifactError: there is no right to remove it.
    """
    release = hold_lock(entry.lock)
    if release is None:
        return False
    try:
        with name_write_errors(entry.path), suppress(FileNotFoundError):
            aside = entry.path
            if not aside.name.endswith(LEFTOVERS) and not FETCHED.fullmatch(aside.name):
                aside = entry.path.with_name(f"{entry.path.name}.partial")
                shutil.rmtree(aside, ignore_errors=True)
                entry.path.replace(aside)
            shutil.rmtree(aside)
    finally:
        release()
    return True


def _read_entry(path: Path) -> CacheEntry | None:
    # A link leads out of the cache.
    if path.is_symlink() or not path.is_dir():
        return None
    name = path.name
    for suffix in LEFTOVERS:
        name = name.removesuffix(suffix)
    if FETCHED.fullmatch(name):
        size, newest = _measure(path.rglob("*"))
        date = newest or _date(path.stat().st_mtime)
        return CacheEntry(
            path, "a package of the demo model, left over", size, date, path.with_name("demo.lock")
        )
    for pattern, (what, lock) in KINDS.items():
        match = pattern.fullmatch(name)
        if match is not None:
            left = ", not finished" if name != path.name else ""
            size, newest = _measure(path.rglob("*"))
            lock_path = path.with_name(lock.format(*match.groups()))
            return CacheEntry(path, f"{what}{left}", size, newest or _date(path.stat().st_mtime), lock_path)
    return None


def _measure(files: Iterable[Path]) -> tuple[int, str | None]:
    """Bytes, and the date of the newest."""
    stats = []
    # Another process may be removing them.
    with suppress(FileNotFoundError):
        for file in files:
            if file.is_file() and not file.is_symlink():
                stats.append(file.stat())
    newest = max((stat.st_mtime for stat in stats), default=None)
    return sum(stat.st_size for stat in stats), None if newest is None else _date(newest)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
