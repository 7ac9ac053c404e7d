"""The type of what JSON can say, for values whose keys are not ours: another project's config.json,
a value of a journal, settings as someone wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

__all__ = ["JsonObject", "JsonValue", "without_nan"]

if TYPE_CHECKING:
    JsonValue: TypeAlias = bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
else:
    # Checks at run time cannot follow a type that holds itself.
    JsonValue = Any

JsonObject: TypeAlias = dict[str, JsonValue]


def without_nan(value: JsonValue) -> JsonValue:
    """The same with None for NaN and the infinities, which JSON cannot say."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
