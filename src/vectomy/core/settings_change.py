"""The settings of a finished run, and how another command's differ from them. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vectomy.core.json_value import JsonObject, JsonValue

__all__ = ["RunSettings"]

SHOWN, CLIP = 6, 60


@dataclass(frozen=True)
class RunSettings:
    """What the results of a command depend on, by names that a person knows."""

    values: JsonObject
    """By the name of the option."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """Hashes of what lies behind a name, such as `the positive prompts`: the file may have changed
    while its name has not.
    """
    grows: bool = False
    """Whether results for more contents hold those for fewer: one more subject replaces none."""

    def list_differences(self, stored: RunSettings) -> list[str]:
        """Each as `setting: old value -> new value`. Contents are named where no value differs: a
        new seed, say, changes all prompts.
        """
        values = [
            f"{name}: {_show(stored.values[name])} -> {_show(value)}"
            for name, value in self.values.items()
            if name in stored.values and not _are_same(stored.values[name], value)
        ]
        gone = [f"{name}: left out" for name in stored.contents if self.grows and name not in self.contents]
        changed = [
            f"{name}: changed"
            for name, digest in self.contents.items()
            if name in stored.contents and stored.contents[name] != digest
        ]
        differences = [*values, *gone] or changed
        more = len(differences) - SHOWN
        return [*differences[:SHOWN], f"and {more} more"] if more > 0 else differences

    @classmethod
    def of(cls, stored: JsonValue) -> RunSettings:
        """From what `to_json` returned; what a hand changed counts as absent."""
        parts = stored if isinstance(stored, Mapping) else {}
        values, contents = parts.get("values"), parts.get("contents")
        return cls(
            dict(values) if isinstance(values, Mapping) else {},
            {name: str(digest) for name, digest in contents.items()} if isinstance(contents, Mapping) else {},
        )

    def to_json(self) -> JsonObject:
        return {"values": self.values, "contents": dict(self.contents)}


def _are_same(stored: JsonValue, value: JsonValue) -> bool:
    """Whether two values are equal, or two paths of one file or folder."""
    if stored == value:
        return True
    if not isinstance(stored, str) or not isinstance(value, str):
        return False
    try:
        return os.path.samefile(os.path.expanduser(stored), os.path.expanduser(value))
    except (OSError, ValueError):
        return False


def _show(value: JsonValue) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        text = ",".join(_show(item) for item in value) or "none"
    else:
        text = str(value)
    # Two long paths differ at their ends.
    return text if len(text) <= CLIP else f"{text[: CLIP // 3]}…{text[-CLIP // 3 * 2 :]}"
