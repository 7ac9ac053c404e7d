"""The configuration file of a command: `--config FILE`, else vectomy.toml in the working folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vectomy.cli.config_template import TABLES
from vectomy.cli.terminal import log_line
from vectomy.core.chat_endpoint import PREFIX
from vectomy.core.config import load_config, write_flag
from vectomy.core.errors import ConfigError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.core.suggestions import suggest

__all__ = ["PROJECT_FILE", "read_config_file"]

PROJECT_FILE = Path("vectomy.toml")


class _Guarded(NamedTuple):
    """A setting that a file which merely lies in the working folder may not make."""

    key: str | None
    """The last part of its name; None: under any name."""
    acts: Callable[[JsonValue], bool]
    """Whether this value does what `why` says."""
    why: str


def _is_server(value: JsonValue) -> bool:
    return isinstance(value, str) and value.strip().lower().startswith(PREFIX)


def _names_file(value: JsonValue) -> bool:
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    return any(
        part.endswith((".yaml", ".yml")) or (part != "" and Path(part).expanduser().exists())
        for part in parts
    )


GUARDED = (
    _Guarded("trust_remote_code", lambda value: value not in (None, False), "code of a model is run"),
    _Guarded("tasks", _names_file, "a task file, which may name code, is read"),
    _Guarded("then", lambda value: value == "push", "a model is published"),
    _Guarded(
        "report_to", lambda value: value not in ("none", "tensorboard"), "the numbers are sent to a tracker"
    ),
    _Guarded(None, _is_server, "prompts and a key are sent to a server"),
)


def read_config_file(command: str, given: Path | None) -> JsonObject:
    """The settings that a file has for a command; none where there is no file.

    Args:
        command: `run`, `heal` or `evaluate`.
        given: --config: settings of this command alone, or with a table for each command.

    Raises:
        ConfigError: the file does not parse or has an unknown table; a file that was not given runs
            code or sends something elsewhere.
    """
    if given is not None:
        values = load_config(given)
        return _table(values, command, given) if set(values) & set(TABLES) else values
    if not PROJECT_FILE.is_file():
        return {}
    values = _table(load_config(PROJECT_FILE), command, PROJECT_FILE)
    _refuse_found(values)
    if settings := list(_settings_in(values)):
        log_line(f"settings of {PROJECT_FILE.resolve()}: {', '.join(settings)}")
    return values


def _refuse_found(values: JsonObject) -> None:
    """Whoever hands on a folder with a file in it does not thereby decide what leaves this machine.

    Raises:
        ConfigError: the file runs code, or sends prompts, numbers or a model elsewhere.
    """
    for place, value in _values_in(values):
        key = place.rpartition(".")[2]
        for item in value if isinstance(value, list) else [value]:
            for rule in GUARDED:
                if rule.key in (None, key) and rule.acts(item):
                    shown = json.dumps(item, default=str)[:200]
                    raise ConfigError(
                        f"{PROJECT_FILE} in the working folder has {place} = {shown}; {rule.why} only where "
                        f"the command says so: give {write_flag(key)}, or the file with --config"
                    )


def _table(values: JsonObject, command: str, file: Path) -> JsonObject:
    for name, table in values.items():
        if name not in TABLES:
            known = ", ".join(f"[{table}]" for table in TABLES)
            raise ConfigError(
                f"{file} has the unknown key '{name}'{suggest(name, TABLES)}; it holds the tables {known} "
                "(`vectomy config init` writes one)"
            )
        if not isinstance(table, dict):
            raise ConfigError(f"'{name}' of {file} is {table!r:.200}; it is a table of settings: [{name}]")
    table = values.get(command)
    return table if isinstance(table, dict) else {}


def _settings_in(values: JsonObject) -> Iterator[str]:
    """`contrast.n_fit = 256` for each value; an empty table has none."""
    for place, value in _values_in(values):
        yield f"{place} = {value!s:.60}"


def _values_in(values: JsonObject, place: str = "") -> Iterator[tuple[str, JsonValue]]:
    """(`contrast.n_fit`, 256) for each value, however deep."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _values_in(value, f"{place}{name}.")
        else:
            yield f"{place}{name}", value
