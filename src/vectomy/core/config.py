"""What every job's configuration has: a `Runtime`, panels for `--help`, checks and files. Loads no
torch.

The command line, Python and a TOML or JSON file all fill a configuration in.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from vectomy.core.byte_count import parse_bytes
from vectomy.core.errors import ConfigError
from vectomy.core.json_value import JsonObject
from vectomy.core.suggestions import suggest, suggest_path
from vectomy.core.text_file import read_text
from vectomy.core.threads import Threads

__all__ = [
    "BatchTokens",
    "JobConfig",
    "LoadIn",
    "Panel",
    "Runtime",
    "StrictModel",
    "load_config",
    "validate_config",
    "write_flag",
]

BatchTokens = int | Literal["auto"]
"""Tokens in one forward pass, padding included; auto: as many as a card has memory for."""
FEWEST_TOKENS = 64
LoadIn = Literal["4bit", "8bit"]
"""Bits a weight while the model runs."""


@dataclass(frozen=True)
class Panel:
    """The section of a command's help that shows a field."""

    name: str


PROMPTS, SEARCH, OUTPUT, MACHINE = Panel("Prompts"), Panel("Search"), Panel("Output"), Panel("Machine")
EDIT = Panel("Edit")
EXPERT = Panel("Expert")
"""Fields that only `--help-all` shows."""


class StrictModel(BaseModel):
    # The docstring of a field is its description on the command line.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    PANEL: ClassVar[Panel] = EXPERT
    """The panel of the fields that name none."""


def _parse_batch_tokens(value: object) -> BatchTokens:
    if value == "auto":
        return "auto"
    if isinstance(value, int | str) and str(value).isdecimal() and int(value) >= FEWEST_TOKENS:
        return int(value)
    raise ValueError(f"input should be auto, or a number of at least {FEWEST_TOKENS}")


def _parse_threads(value: object) -> Threads:
    if value == "auto":
        return "auto"
    if isinstance(value, int | str) and str(value).isdecimal() and int(value) >= 1:
        return int(value)
    raise ValueError("input should be auto, or a number of at least 1")


def _check_bytes(value: str | None) -> str | None:
    if value is not None:
        parse_bytes(value)
    return value


class Runtime(StrictModel):
    """How a model is loaded and run: the settings that depend on the machine, not on the job."""

    PANEL: ClassVar[Panel] = MACHINE

    device: str = "auto"
    """Where the model runs; auto: CUDA, else MPS, else the processor."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights; auto is the checkpoint's own, or float32 on a processor without
    16-bit arithmetic.
    """
    load_in: LoadIn | None = None
    """Quantise the weights with bitsandbytes while the model runs; the edited checkpoint is still
    made from the full-precision weights.
    """
    batch_tokens: Annotated[BatchTokens, BeforeValidator(_parse_batch_tokens)] = "auto"
    """Tokens in one forward pass, padding included; auto fits them to the free memory of a card,
    and is 4096 on a processor (16384 in the cache of answers).
    """
    threads: Annotated[Threads, BeforeValidator(_parse_threads)] = "auto"
    """Threads of the processor; auto: one a core that this process may use. Another number rounds
    sums in another order.
    """
    max_memory: Annotated[str | None, AfterValidator(_check_bytes)] = None
    """Most memory that this process may take (of a card, if the model is on one), such as 12GB. A
    model that does not fit is read block by block (gradient). [default: all that is free]
    """
    thinking: Annotated[bool, EXPERT] = False
    """Let models with a thinking block think before they answer."""
    thought_tokens: Annotated[int | None, EXPERT] = Field(None, ge=1)
    """With --thinking: most tokens of a thought, which is then closed; the answer behind it has its
    own tokens. Without this, a thought takes tokens of the answer.
    """
    tensor_parallel: Annotated[bool, EXPERT] = False
    """Divide each matrix over the processes of `accelerate launch` or torchrun, instead of giving
    each process a model and a share of the prompts.
    """
    trust_remote_code: Annotated[bool, EXPERT] = False
    """Run Python code that the model's folder contains."""

    def list_precision(self) -> list[str | bool]:
        """The settings that change what a model computes, for the hashes of results."""
        # Hashes made before models could be quantised stay valid.
        bits = [] if self.load_in is None else [self.load_in]
        thought = [] if self.thought_tokens is None else [f"thought of {self.thought_tokens}"]
        return [self.device, self.dtype, self.thinking, *bits, *thought]


class JobConfig(StrictModel):
    """A configuration with a `Runtime`, whose keys are written and read flat: `device`, not
    `runtime.device`.
    """

    RUNTIME_KEYS: ClassVar[tuple[str, ...]] = tuple(Runtime.model_fields)
    """The keys of `Runtime` that the job takes and writes."""

    runtime: Runtime = Runtime()

    @model_validator(mode="before")
    @classmethod
    def _nest_runtime(cls, values: Any) -> Any:
        """Collect the flat keys into `runtime`, over the defaults of this class."""
        if not isinstance(values, dict) or isinstance(values.get("runtime"), Runtime):
            return values
        flat = {name: value for name, value in values.items() if name in cls.RUNTIME_KEYS}
        others = {name: value for name, value in values.items() if name not in flat}
        nested = others.get("runtime", {})
        if not isinstance(nested, dict):
            return values
        usual: Runtime = cls.model_fields["runtime"].default
        return {**others, "runtime": {**usual.model_dump(), **nested, **flat}}

    @model_serializer(mode="wrap")
    def _flatten_runtime(self, handler: Callable[[Any], JsonObject], info: Any) -> JsonObject:
        result = handler(self)
        result.pop("runtime", None)
        include, exclude = info.include, info.exclude
        wanted = [
            name
            for name in self.RUNTIME_KEYS
            if (include is None or name in include) and (exclude is None or name not in exclude)
        ]
        return result | {name: getattr(self.runtime, name) for name in wanted}


Config = TypeVar("Config", bound=BaseModel)


def validate_config(
    kind: type[Config], values: Mapping[str, Any], typed: Mapping[str, str] | None = None
) -> Config:
    """Check values from any source against a configuration class.

    Args:
        typed: what a person typed for a key (`contrast.n_fit`: `--n-fit`), for the error.

    Raises:
        ConfigError: names each offending key, its value and what it should be.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(problem, kind, typed or {}) for problem in error.errors()]
        raise ConfigError("; ".join(problems)) from None


def write_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _explain(problem: Any, kind: type[BaseModel], typed: Mapping[str, str]) -> str:
    place = [part for part in problem["loc"] if part != "runtime"]
    key = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        for part in place[:-1]:
            annotation = kind.model_fields[str(part)].annotation
            options = getattr(annotation, "__args__", (annotation,))
            kind = next(item for item in options if isinstance(item, type) and issubclass(item, BaseModel))
        near = suggest(str(place[-1]), _keys(kind))
        return f"unknown configuration key '{key}'{near}; known here: {', '.join(_keys(kind))}"
    if problem["type"] == "missing":
        return f"configuration key '{key}' is missing"
    # A value of a list (`budgets.0`) was typed as one option.
    name = next((typed[start] for start in _beginnings(place) if start in typed), None)
    subject = f"configuration key '{key}'" if name is None else name
    message = problem["msg"].removeprefix("Value error, ")
    return f"{subject} is {problem['input']!r:.200}: {message[:1].lower()}{message[1:]}"


def _beginnings(place: list[Any]) -> list[str]:
    """`a.b.c`, `a.b`, `a`."""
    return [".".join(str(part) for part in place[:end]) for end in range(len(place), 0, -1)]


def _keys(kind: type[BaseModel]) -> list[str]:
    names = set(kind.model_fields)
    if issubclass(kind, JobConfig):
        names = names - {"runtime"} | set(kind.RUNTIME_KEYS)
    return sorted(names)


def load_config(path: Path) -> JsonObject:
    """Read a .toml or .json configuration as plain values; `parse_config` checks them.

    Raises:
        ConfigError: the file is missing, of another kind, or does not parse.
    """
    try:
        if path.suffix == ".toml":
            return tomllib.loads(read_text(path))
        if path.suffix == ".json":
            values = json.loads(read_text(path))
            if isinstance(values, dict):
                return values
            raise ConfigError(f"configuration {path} holds a {type(values).__name__}, not an object of keys")
    except FileNotFoundError:
        raise ConfigError(
            f"the configuration file {path} does not exist{suggest_path(path)}; give a .toml or .json file"
        ) from None
    # ValueError: no UTF-8, no TOML, no JSON, or a number of more digits than Python takes.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"configuration file {path} does not parse: {error}") from None
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}") from None
    raise ConfigError(f"configuration file {path} is neither .toml nor .json; write it as one of them")
