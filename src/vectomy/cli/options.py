"""Options of the commands, made from the configuration classes.

A field gives the name, the type, the choices, the default and the help of its option. The option
itself defaults to None, which means "not given": the configuration's own value applies then.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vectomy.cli.vocabulary import DEVICES
from vectomy.core.config import JobConfig, Panel, StrictModel
from vectomy.core.repo_name import split_revision
from vectomy.core.run_config import DEMO_PROMPTS, FLAT, HUB_PROMPTS, Contrast, RunConfig, Source

__all__ = [
    "SOURCE_HELP",
    "Parameters",
    "command_of",
    "config_options",
    "default_folder",
    "field_options",
    "flags_of",
    "given_options",
    "run_options",
    "unpack",
]

SOURCE_HELP = (
    "SRC is a file (.jsonl, .json, .csv, .tsv, .parquet, .txt, also .gz), OWNER/NAME[/SUBSET][:SPLIT] on "
    "the Hub, or a bundled set (bundled:refused, bundled:harmless); [:400] takes a slice, #COLUMN at the "
    "end picks a column."
)

Parameters = Mapping[str, Any]
"""Annotated types by parameter name; the ones of a command."""

METAVARS = {
    "behaviour": "NAME",
    "device": DEVICES,
    "behaviour_tokens": "TOKEN",
    "direction": "FILE|random:SEED",
    "engine": "own|vllm|openai:URL[#MODEL]",
    "judge": "NAME",
    "max_memory": "SIZE",
    "point": "POINT",
    "then_to": "PATH|OWNER/NAME",
}


def run_options() -> dict[str, Any]:
    """All options of a run: the short names of its configuration."""
    sets = [name for name in Contrast.model_fields if name in FLAT]
    systems = [name for name in FLAT if name.endswith("_system")]
    names = list(dict.fromkeys([*sets, *systems, *FLAT]))
    own = [
        name for name in RunConfig.model_fields if name not in ("model", "contrast", "selection", "runtime")
    ]
    # What a person changes first stands first in its section.
    result = {name: _option(name, RunConfig.model_fields[name], RunConfig) for name in own}
    result |= {name: _option(name, *_field(FLAT[name])) for name in names}
    return result | _runtime_options(RunConfig)


def config_options(
    kind: type[JobConfig],
    flags: Mapping[str, tuple[str, ...]] | None = None,
    metavars: Mapping[str, str] | None = None,
    without: Iterable[str] = (),
) -> dict[str, Any]:
    """The options of a flat configuration class, by field name.

    Args:
        flags: what a person types, where it is not the name of the field.
        metavars: the placeholder of a value.
        without: fields that are no options of the command.
    """
    skipped = {"runtime", *without}
    result = {
        name: _option(name, field, kind, (flags or {}).get(name, ()), (metavars or {}).get(name))
        for name, field in kind.model_fields.items()
        if name not in skipped
    }
    return result | _runtime_options(kind)


def field_options(kind: type[StrictModel]) -> dict[str, Any]:
    """The options of a table of a configuration file, by field name."""
    return {name: _option(name, field, kind) for name, field in kind.model_fields.items()}


def _runtime_options(kind: type[JobConfig]) -> dict[str, Any]:
    usual = kind.model_fields["runtime"].default
    fields = type(usual).model_fields
    return {
        name: _option(name, fields[name], type(usual), default=getattr(usual, name))
        for name in kind.RUNTIME_KEYS
    }


def _field(place: tuple[str, ...]) -> tuple[FieldInfo, type[BaseModel]]:
    """The field at a place of a run's configuration, and its class."""
    kind: type[BaseModel] = RunConfig
    for part in place[:-1]:
        field, holder = kind.model_fields[part], kind
        inner = next(item for item in _members(field.annotation) if issubclass(item, BaseModel))
        if inner is Source:
            if place[-1] == "prompts":
                return field, holder
            side = "preserve" if place[1] == "keep" else place[1]
            text = f"System prompt before each {side} prompt."
            system = Source.model_fields["system"]
            return FieldInfo(annotation=system.annotation, default=None, description=text), holder
        kind = inner
    return kind.model_fields[place[-1]], kind


def _members(annotation: Any) -> list[Any]:
    """The types of a union, without None."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return [part for part in parts if part is not type(None)]


def _option(
    name: str,
    field: FieldInfo,
    kind: type[BaseModel],
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    default: Any = None,
) -> Any:
    annotation = _members(field.annotation)[0]
    panel = next((item for item in field.metadata if isinstance(item, Panel)), kind.PANEL)  # type: ignore[attr-defined]
    metavar = metavar or METAVARS.get(name)
    shown = field.default if default is None else default
    if annotation is Source:
        annotation, metavar = str, "SRC"
        shown = f"{HUB_PROMPTS[name]}; {DEMO_PROMPTS[name]} for demo" if name in HUB_PROMPTS else None
    elif name.endswith("_system"):
        metavar = "TEXT"
    elif get_origin(annotation) is tuple:
        item = get_args(annotation)[0]
        annotation = list[str] if item is str and metavar != "NAME,..." else str
        shown = ",".join(str(value) for value in shown) if isinstance(shown, tuple) else None
    if name == "recipe":
        # A trait (`--trait`) is what selects recipe distill.
        annotation = Literal[tuple(item for item in get_args(annotation) if item != "distill")]
    elif Literal["auto"] in _members(field.annotation):
        annotation, metavar = str, "auto|N"
    text = " ".join((field.description or "").split())
    if usual := _shown(name, shown, flags):
        text += f" [default: {usual}]"
    option = typer.Option(
        *(flags or _flags(name, annotation)),
        help=text.strip(),
        metavar=metavar,
        show_default=False,
        rich_help_panel=panel.name,
    )
    return Annotated[annotation | None, option]


def _flags(name: str, annotation: Any) -> tuple[str, ...]:
    dashed = name.replace("_", "-")
    return (f"--{dashed}/--no-{dashed}",) if annotation is bool else (f"--{dashed}",)


def _shown(name: str, value: Any, flags: tuple[str, ...]) -> str:
    """A default as it would be typed; nothing for none."""
    if isinstance(value, bool):
        dashed = name.replace("_", "-")
        yes, _, no = (flags[0] if flags else f"--{dashed}/--no-{dashed}").partition("/")
        return (yes if value else no).removeprefix("--")
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return value if isinstance(value, str) else ""


def given_options(values: Mapping[str, Any], options: Iterable[str]) -> dict[str, Any]:
    """The options that were typed."""
    return {name: values[name] for name in options if values.get(name) is not None}


def flags_of(options: Parameters) -> dict[str, str]:
    """What a person types for each option: `--text` for `texts`."""
    result = {}
    for name, annotation in options.items():
        info = annotation.__metadata__[0]
        # In an annotation, typer's first argument is the first flag too.
        flags = [flag for flag in (info.default, *info.param_decls) if isinstance(flag, str)]
        result[name] = next(flag for flag in flags if flag.startswith("--")).partition("/")[0]
    return result


def command_of(
    function: Callable[[dict[str, Any]], None],
    parameters: Parameters,
    defaults: Mapping[str, Any] | None = None,
) -> Callable[..., None]:
    """A function that typer reads as a command with these parameters; it passes their values on.

    Args:
        defaults: the values of flags and of parameters that are not given; None for the others. A
            parameter with the default `...` has to be given.
    """

    def command(**values: Any) -> None:
        function(values)

    usual = defaults or {}
    keyword, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    signature = [
        inspect.Parameter(
            name,
            keyword,
            default=empty if usual.get(name) is ... else usual.get(name),
            annotation=annotation,
        )
        for name, annotation in parameters.items()
    ]
    command.__dict__["__signature__"] = inspect.Signature(signature)
    command.__doc__ = function.__doc__
    return command


Fields = TypeVar("Fields")


def unpack(kind: type[Fields]) -> Callable[[Callable[[Fields], None]], Callable[..., None]]:
    """Decorator: the fields of a dataclass are the parameters of the command that takes it."""

    def decorate(function: Callable[[Fields], None]) -> Callable[..., None]:
        hints = get_type_hints(kind, include_extras=True)
        usual = {
            field.name: ... if field.default is dataclasses.MISSING else field.default
            for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        }
        command = command_of(lambda values: function(kind(**values)), hints, usual)
        command.__doc__ = function.__doc__
        return command

    return decorate


def default_folder(model: str, recipe: str | None) -> Path:
    """runs/NAME-RECIPE, the run folder if no other is given."""
    name, _ = split_revision(model)
    return Path("runs") / f"{Path(name).resolve().name}-{recipe or 'gradient'}"
