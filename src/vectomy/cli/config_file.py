"""The configuration file of a command: `--config FILE`, else vectomy.toml in the working folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vectomy.cli.config_template import TABLES
from vectomy.cli.terminal import log_line
from vectomy.core.config import load_config
from vectomy.core.errors import ConfigError
from vectomy.core.json_value import JsonObject
from vectomy.core.suggestions import suggest

__all__ = ["PROJECT_FILE", "read_config_file"]

PROJECT_FILE = Path("vectomy.toml")


def read_config_file(command: str, given: Path | None) -> JsonObject:
    """The settings that a file has for a command; none where there is no file.

    Args:
        command: `run`, `heal` or `evaluate`.
        given: --config: settings of this command alone, or with a table for each command.

    Raises:
        ConfigError: the file does not parse, or has an unknown table.
    """
    if given is not None:
        values = load_config(given)
        return _table(values, command, given) if set(values) & set(TABLES) else values
    if not PROJECT_FILE.is_file():
        return {}
    values = _table(load_config(PROJECT_FILE), command, PROJECT_FILE)
    if values.get("trust_remote_code"):
        raise ConfigError(
            f"{PROJECT_FILE} in the working folder has trust_remote_code = true; code of a model is run only "
            "where the command says so: give --trust-remote-code, or the file with --config"
        )
    after = values.get("after")
    if isinstance(after, dict) and after.get("then") == "push":
        raise ConfigError(
            f'{PROJECT_FILE} in the working folder has then = "push"; a model is published only where the '
            "command says so: give --then push, or the file with --config"
        )
    if settings := list(_settings_in(values)):
        log_line(f"settings of {PROJECT_FILE.resolve()}: {', '.join(settings)}")
    return values


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


def _settings_in(values: JsonObject, place: str = "") -> Iterator[str]:
    """`contrast.n_fit = 256` for each value; an empty table has none."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _settings_in(value, f"{place}{name}.")
        else:
            yield f"{place}{name} = {value!s:.60}"
