"""The base of everything that is written as JSON: objects with named and typed fields.

A record that was read is written back with the keys it had, those that this version does not know
included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictFloat,
    StrictInt,
    ValidationError,
    field_validator,
)

from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject, JsonValue

__all__ = ["JsonObject", "JsonRecord", "Named", "Number", "Numbers", "Rows"]

Number = StrictInt | StrictFloat
"""As it was written: 1 stays 1 and does not become 1.0."""

T = TypeVar("T")
Record = TypeVar("Record", bound="JsonRecord")


def _without_nulls(value: object) -> object:
    """Null and absent say the same: not measured."""
    if isinstance(value, Mapping):
        return {key: inner for key, inner in value.items() if inner is not None}
    return [inner for inner in value if inner is not None] if isinstance(value, list | tuple) else value


def _numbers_alone(value: object) -> object:
    if not isinstance(value, list | tuple):
        return value
    return [inner for inner in value if isinstance(inner, int | float) and not isinstance(inner, bool)]


Named = Annotated[dict[str, T], BeforeValidator(_without_nulls)]
"""Values by name, without those that are null."""
Rows = Annotated[tuple[T, ...], BeforeValidator(_without_nulls)]
"""A JSON array, without what is null."""
Numbers = Annotated[tuple[Number, ...], BeforeValidator(_numbers_alone)]
"""The numbers of a JSON array; NaN and infinite ones are among them."""


class JsonRecord(BaseModel):
    """A JSON object. Every field has a default, so that files of older versions are read too.

    A value of another type than its field's counts as absent: one spoilt number does not take the
    rest of a file away.
    """

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    @field_validator("*", mode="wrap")
    @classmethod
    def _absent_if_of_another_type(
        cls, value: object, handler: Callable[[object], object], info: Any
    ) -> object:
        try:
            return handler(value)
        except ValidationError:
            field = cls.model_fields[str(info.field_name)]
            return field.get_default(call_default_factory=True, validated_data={})

    @classmethod
    def from_json(cls: type[Record], value: object) -> Record:
        """Read a parsed JSON object; this is the one place where absent keys get their defaults.

        Raises:
            ArtifactError: `value` is no JSON object, or one of its keys is no text.
        """
        if not isinstance(value, Mapping):
            raise ArtifactError(
                f"{cls.__name__} is a JSON object, not {type(value).__name__}; write the file again with the "
                "command that made it"
            )
        try:
            return cls.model_validate(value)
        except ValidationError:
            # A key with half of a character: JSON has it ("\\ud800"), and no text does.
            raise ArtifactError(
                f"{cls.__name__} has a key that is no text; write the file again "
                "with the command that made it"
            ) from None

    @classmethod
    def repair(cls, value: object) -> JsonObject:
        """The object as it was written, without the values that are of another type than their
        field.

        Raises:
            ArtifactError: `value` is no JSON object.
        """
        result = cls.from_json(value).to_json()
        assert isinstance(value, Mapping)
        return {key: inner for key, inner in result.items() if inner is not None or value[key] is None}

    def __getitem__(self, key: str) -> JsonValue:
        """A value as the file has it: `results["base"]["refusal_rate"]`."""
        return self.to_json()[key]

    def __contains__(self, key: object) -> bool:
        return key in self.to_json()

    def keys(self) -> KeysView[str]:
        """The keys of the file."""
        return self.to_json().keys()

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.to_json())

    def __eq__(self, other: object) -> bool:
        """With a parsed JSON object as with a record."""
        return self.to_json() == other if isinstance(other, dict) else super().__eq__(other)

    def get(self, key: str, default: JsonValue = None) -> JsonValue:
        """A value as the file has it, or `default` where it has none."""
        return self.to_json().get(key, default)

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        names = ", ".join(name for name in type(self).model_fields if name in self.model_fields_set)
        return f"<{type(self).__name__}: {names[:100] or 'empty'}{'...' if len(names) > 100 else ''}>"

    def to_json(self) -> JsonObject:
        """The object with the fields that were read or given, in the order of the class."""
        return self.model_dump(mode="json", exclude_unset=True)
