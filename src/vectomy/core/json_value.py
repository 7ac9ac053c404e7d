"""The type of what JSON can say, for values whose keys are not ours: another project's config.json,
a value of a journal, settings as someone wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

__all__ = ["JsonObject", "JsonValue"]

if TYPE_CHECKING:
    JsonValue: TypeAlias = bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
else:
    # Checks at run time cannot follow a type that holds itself.
    JsonValue = Any

JsonObject: TypeAlias = dict[str, JsonValue]
