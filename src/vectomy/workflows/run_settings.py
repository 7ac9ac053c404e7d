"""The settings of a run by the names of its options, from its configuration or from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vectomy.core.errors import ConfigError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.core.run_config import FLAT, RunConfig
from vectomy.core.run_folder import hash_of, read_json
from vectomy.core.settings_change import RunSettings
from vectomy.workflows.trait_config import read_run_config

__all__ = ["hash_prompts", "list_values", "read_earlier_settings"]

# They change no result beyond rounding.
IGNORED = ("batch_tokens", "max_memory", "tensor_parallel", "threads", "trust_remote_code")


def list_values(config: RunConfig) -> JsonObject:
    """Every setting that a result may depend on, by the name of its option."""
    dump = config.model_dump(mode="json")
    values = {name: _at(dump, path) for name, path in FLAT.items()}
    del dump["contrast"], dump["selection"]
    return {name: value for name, value in {**values, **_flatten(dump)}.items() if name not in IGNORED}


def hash_prompts(sets: Mapping[str, JsonValue]) -> dict[str, str]:
    """Hashes of the prompts of each side, which may change while their file keeps its name.

    Args:
        sets: prompts by side and split, as prompts.json has them.
    """
    return {f"the {side} prompts": hash_of(splits) for side, splits in sets.items()}


def read_earlier_settings(folder: Path) -> RunSettings | None:
    """Those of a run folder of a version that wrote no settings.json."""
    if not (folder / "config.json").is_file():
        return None
    try:
        values = list_values(read_run_config(folder))
    except ConfigError:
        return None
    prompts = folder / "prompts.json"
    return RunSettings(values, hash_prompts(read_json(prompts)) if prompts.is_file() else {})


def _at(dump: Mapping[str, Any], path: tuple[str, ...]) -> JsonValue:
    value: Any = dump
    for key in path:
        value = None if value is None else value[key]
    return value


def _flatten(values: Mapping[str, JsonValue], prefix: str = "") -> JsonObject:
    result: JsonObject = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= _flatten(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result
