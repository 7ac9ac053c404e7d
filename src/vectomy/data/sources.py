"""Reads rows of prompts from files, from data sets on the Hub, and from the bundled sets."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import read_jsonl
from vectomy.core.packages import describe_missing
from vectomy.core.quoted_error import quote_error
from vectomy.core.repo_name import explain_gated
from vectomy.core.run_config import HUB_PROMPTS
from vectomy.core.suggestions import suggest, suggest_path
from vectomy.data.prompt_files import SUFFIXES, clip, has_parquet_mark, read_file

__all__ = ["find_hub_name", "is_parquet", "local_path", "plain_source", "read_rows", "split_column"]

ALIASES = {"xstest": "Paul/XSTest"}
# OWNER/NAME, then perhaps /SUBSET, and perhaps :SPLIT with a slice.
SLICED = r"[\w.-]+(\[[-\d%:]*\])?"
HUB = re.compile(
    rf"(?P<name>[\w-][\w.-]*/[\w.-]+)(/(?P<subset>[\w.+-]+))?(:(?P<split>{SLICED}([+]{SLICED})*))?"
)
HUB_PAGES = ("https://huggingface.co/datasets/", "hf://datasets/", "datasets/")
SLICE = re.compile(r"(?P<path>.+)\[(?P<first>-?\d*):(?P<last>-?\d*)\]")


def split_column(spec: str) -> tuple[str, str]:
    """(source, column) of SOURCE#COLUMN; a file whose name has a # is a source."""
    if _is_file(spec) or "#" not in spec:
        return spec, ""
    source, _, column = spec.rpartition("#")
    return source, column


def read_rows(spec: str) -> list[JsonObject]:
    """All rows of a source, as objects.

    Raises:
        PromptError: the file or data set does not exist, or does not parse.
    """
    if spec.startswith("bundled:"):
        return _bundled(spec.removeprefix("bundled:"))
    path = Path(os.path.expanduser(spec))
    if spec in ALIASES and not os.path.exists(path):
        return _hub_rows(ALIASES[spec], None, None)
    if _is_file(spec):
        return read_file(path)
    part = SLICE.fullmatch(spec)
    if part is not None and _is_file(part["path"]):
        first, last = (int(part[end]) if part[end] else None for end in ("first", "last"))
        return read_file(Path(os.path.expanduser(part["path"])))[first:last]
    if os.path.isdir(path):
        raise PromptError(f"the prompt source {spec} is a folder; give a file ({', '.join(SUFFIXES)})")
    if os.path.exists(path):
        raise PromptError(f"the prompt source {spec} is not a regular file; write its rows to a file first")
    spec, hub = _match_hub(spec)
    if hub is not None:
        return _hub_rows(hub["name"], hub["subset"], hub["split"])
    raise PromptError(f"the prompt file {clip(spec, 300)} does not exist{_explain_missing(spec)}")


def _match_hub(spec: str) -> tuple[str, re.Match[str] | None]:
    """The source without the address of the Hub's pages, and its parts if it can be a data set."""
    for page in HUB_PAGES:
        spec = spec.removeprefix(page)
    return spec, None if _looks_like_file(spec) else HUB.fullmatch(spec)


def _is_file(spec: str) -> bool:
    # Unlike that of Path, this function of os.path returns False for a name that is too long.
    return os.path.isfile(os.path.expanduser(spec))


def _looks_like_file(spec: str) -> bool:
    return spec.lower().removesuffix(".gz").endswith(SUFFIXES)


def _explain_missing(spec: str) -> str:
    """A malformed slice, a file of a similar name, or what a source can be."""
    path, bracket, part = spec.partition("[")
    if bracket and _is_file(path):
        return f", and '[{part}' is no slice of {path}; write [:400], [100:] or [100:400]"
    folder = os.path.dirname(os.path.expanduser(spec)) or "."
    nor = "" if os.path.isdir(folder) else f", nor does its folder {clip(folder, 300)}"
    known = f"give a file ({', '.join(SUFFIXES)}), OWNER/NAME on the Hub, or bundled:NAME"
    return f"{nor or suggest_path(spec)}; {known}"


def _bundled(name: str) -> list[JsonObject]:
    folder = resources.files("vectomy") / "data" / "bundled"
    file = folder / f"{name}.jsonl"
    if not re.fullmatch(r"\w+", name) or not file.is_file():
        names = sorted(
            entry.name.removesuffix(".jsonl") for entry in folder.iterdir() if entry.name.endswith(".jsonl")
        )
        raise PromptError(
            f"there is no bundled prompt set '{name}'{suggest(name, names)}; there are {', '.join(names)}"
        )
    return read_jsonl(file, remedy="install vectomy again")


def _hub_rows(name: str, subset: str | None, split: str | None) -> list[JsonObject]:
    if missing := describe_missing(f"reading the data set {name} of the Hub", "datasets"):
        raise PromptError(f"{missing}; or give local files")
    from datasets import load_dataset

    split = split or "train"
    try:
        return list(load_dataset(name, subset, split=split))
    except Exception as error:  # noqa: BLE001 (the library raises many kinds)
        raise PromptError(_hub_fault(name, subset, split, error)) from None


def _hub_fault(name: str, subset: str | None, split: str, error: Exception) -> str:
    """What is wrong with the request, from the library's message, and the remedy."""
    text = str(error).strip()
    reason = quote_error(error, 160)
    listed = re.search(r"\[(.+?)\]", text, re.DOTALL)
    choices = clip(", ".join(re.findall(r"'([^']+)'", listed[1])), 300) if listed else ""
    if "Config name is missing" in text:
        return (
            f"the data set {name} has several subsets ({choices}); name one: {name}/SUBSET, or "
            f"{name}/SUBSET:SPLIT"
        )
    if "BuilderConfig" in text and subset:
        return f"the data set {name} has no subset '{subset}'; it has {choices or reason}"
    if "Unknown split" in text:
        return f"the data set {name} has no split '{split}'; it has {choices or reason}. Write {name}:SPLIT"
    if "gated" in text:
        return explain_gated(name, "data set")
    called = f"{name}/{subset}" if subset else name
    if name in HUB_PROMPTS.values():
        options = "--positive and --negative, of `heal` --positive-test, --negative-test and --prompts"
        called += f"' (a default: give {options})"
    else:
        called += "'"
    if "Couldn't reach" in text or "Offline" in text or "Connection" in type(error).__name__:
        return (
            f"'{called} does not exist as a local file{suggest_path(name)}, and the Hub cannot be reached "
            f"({reason}). Check the network and HF_HUB_OFFLINE, or use local files, or "
            "bundled:refused and bundled:harmless"
        )
    return (
        f"'{called} does not exist as a local file, and the Hub has no data set of that name with split "
        f"'{split}': {reason}. Correct the name, or use local files, or bundled:refused and "
        "bundled:harmless"
    )


def plain_source(spec: str) -> str:
    """A prompt source without local folders."""
    return Path(spec).name if local_path(spec) is not None else spec


def find_hub_name(spec: str) -> str | None:
    """The data set on the Hub that a source reads; None for others."""
    if spec.startswith("bundled:") or local_path(spec) is not None:
        return None
    source, _ = split_column(spec)
    _, hub = _match_hub(source)
    return ALIASES.get(source, hub["name"] if hub is not None else None)


def is_parquet(spec: str) -> bool:
    """Whether a source is a local Parquet file, by its name or its first bytes."""
    path = local_path(spec)
    if path is None or not path.is_file():
        return False
    return path.name.lower().removesuffix(".gz").endswith(".parquet") or has_parquet_mark(path)


def local_path(spec: str) -> Path | None:
    """The local file or folder of a source, without its slice and column; None for others."""
    source, _ = split_column(spec)
    part = SLICE.fullmatch(source)
    for name in (spec, source, part["path"] if part is not None else source):
        path = os.path.expanduser(name)
        if os.path.exists(path):
            return Path(path)
    return None
