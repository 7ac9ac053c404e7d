"""vectomy.toml: all settings of `run`, `heal` and `evaluate` with their defaults, as a file to
fill in and as a JSON schema; made from the configuration classes.
"""

from __future__ import annotations

import json
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vectomy.core.after_run import AfterRun
from vectomy.core.config import JobConfig
from vectomy.core.evaluation_config import EvaluationConfig
from vectomy.core.json_value import JsonObject
from vectomy.core.run_config import HUB_PROMPTS, RunConfig
from vectomy.healing.heal_config import HealConfig

__all__ = ["TABLES", "make_schema", "write_template"]

TABLES: dict[str, type[JobConfig]] = {"run": RunConfig, "heal": HealConfig, "evaluate": EvaluationConfig}
"""The tables of the file, each for the command of its name."""
# Tables that are not in the class of the command.
OTHER_TABLES: dict[str, dict[str, type[BaseModel]]] = {"run": {"after": AfterRun}}
# What a command takes as its arguments.
ARGUMENTS = ("model", "subjects")
WIDTH = 96
ABOUT = """Settings of vectomy for this folder. Each command reads the table of its name here, if no other
file is given with --config; options on the command line override it. A line that starts with # is
the default: remove the # and change the value. `vectomy config schema` prints the JSON schema."""


@dataclass(frozen=True)
class _Setting:
    key: str
    text: str
    choices: tuple[Any, ...]
    default: Any


def write_template() -> str:
    """The commented file."""
    lines = [f"# {line}" for line in ABOUT.splitlines()]
    for name, kind in TABLES.items():
        lines += ["", "", f"[{name}]"]
        lines += _write_settings(_settings_of(kind))
        for place, settings, optional in _inner_tables(kind, name):
            # An empty table of an optional prompt set would be a set without prompts.
            lines += ["", f"{'#' if optional else ''}[{place}]", *_write_settings(settings)]
        for place, other in OTHER_TABLES.get(name, {}).items():
            lines += ["", f"[{name}.{place}]", *_write_settings(_settings_of(other))]
    return "\n".join(lines) + "\n"


def _write_settings(settings: list[_Setting]) -> list[str]:
    lines: list[str] = []
    for item in settings:
        lines += [f"# {line}" for line in textwrap.wrap(item.text, WIDTH)]
        if item.choices:
            lines += [f"# {line}" for line in textwrap.wrap(f"One of {_join(item.choices)}.", WIDTH)]
        shown = "  # not set" if item.default is None else f" {_to_toml(item.default)}"
        lines.append(f"#{item.key} ={shown}")
    return lines


def _join(choices: tuple[Any, ...]) -> str:
    return ", ".join(json.dumps(choice) for choice in choices)


def _to_toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_to_toml(item) for item in value)}]"
    # JSON writes texts, numbers and truth values as TOML does.
    return json.dumps(value, ensure_ascii=False)


def _settings_of(kind: type[BaseModel], defaults: BaseModel | None = None) -> list[_Setting]:
    """The keys of a class that hold a value; those of `runtime` stand flat in their job."""
    result = []
    for name, field in kind.model_fields.items():
        if name in ARGUMENTS or _model_in(field.annotation) is not None:
            continue
        default = (
            field.get_default(call_default_factory=True) if defaults is None else getattr(defaults, name)
        )
        required = defaults is None and field.is_required()
        text = " ".join((field.description or "").split())
        result.append(_Setting(name, text, _choices_of(field), None if required else default))
    if issubclass(kind, JobConfig):
        runtime = kind.model_fields["runtime"].default
        result += [item for item in _settings_of(type(runtime), runtime) if item.key in kind.RUNTIME_KEYS]
    return result


def _inner_tables(kind: type[BaseModel], place: str) -> Iterator[tuple[str, list[_Setting], bool]]:
    """(name, settings, whether the table may be absent) of each table inside a class."""
    for name, field in kind.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is None or name == "runtime":
            continue
        settings = _settings_of(inner)
        if name in HUB_PROMPTS:
            settings = [
                _Setting(item.key, item.text, (), HUB_PROMPTS[name]) if item.key == "prompts" else item
                for item in settings
            ]
        about = " ".join((field.description or "").split())
        if about and settings:
            first = settings[0]
            settings = [_Setting(first.key, about, first.choices, first.default), *settings[1:]]
        yield f"{place}.{name}", settings, not field.is_required() and field.default is None
        yield from _inner_tables(inner, f"{place}.{name}")


def _members_of(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    kinds = [item for item in _members_of(annotation) if isinstance(item, type)]
    return next((item for item in kinds if issubclass(item, BaseModel)), None)


def _choices_of(field: FieldInfo) -> tuple[Any, ...]:
    """The values of a closed list; nothing where other values are allowed too."""
    members = [item for item in _members_of(field.annotation) if item is not type(None)]
    if any(get_args(item) == () or get_origin(item) is tuple for item in members):
        return ()
    # A trait, which no file names, is what selects recipe distill.
    return tuple(choice for item in members for choice in get_args(item) if choice != "distill")


def make_schema() -> JsonObject:
    """JSON schema (draft 2020-12) of the file."""
    schemas = {name: kind.model_json_schema(ref_template="#/$defs/{model}") for name, kind in TABLES.items()}
    definitions = {
        key: value for schema in schemas.values() for key, value in schema.pop("$defs", {}).items()
    }
    for name, kind in TABLES.items():
        settings = schemas[name]["properties"]
        runtime = type(kind.model_fields["runtime"].default).model_json_schema()["properties"]
        settings |= {key: runtime[key] for key in kind.RUNTIME_KEYS}
        for key in ("runtime", *ARGUMENTS):
            settings.pop(key, None)
        settings |= {place: other.model_json_schema() for place, other in OTHER_TABLES.get(name, {}).items()}
        schemas[name].pop("required", None)
    # The command line gives what a file leaves out.
    for definition in definitions.values():
        if definition.get("title") == "Contrast":
            definition.pop("required", None)
    definitions.pop("Runtime", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vectomy.toml",
        "type": "object",
        "properties": schemas,
        "additionalProperties": False,
        "$defs": definitions,
    }
