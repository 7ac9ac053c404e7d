"""Which files beside the weights an edited copy keeps.

A safetensors file of tensors that the model does not have (heads that predict more tokens, adapters
for images) is kept: no edit changes one of them. A file that holds the model's own weights once
more, under their names or under others, would be the unedited model and is left behind.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vectomy.architecture.readers import EXTRA_HEADS
from vectomy.checkpoint.safetensors_header import TensorEntry, read_shard
from vectomy.core.errors import CheckpointError
from vectomy.core.json_value import JsonValue

__all__ = ["OtherFiles", "sort_files"]

OTHER_WEIGHTS = frozenset({".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".npz"})
# What wrappers and other classes put in front of a name.
PREFIX = re.compile(r"(_orig_mod|module|base_model|model|language_model|text_model|transformer)\.")
# Meta's and Mistral's names of the same weights.
MAKER = re.compile(
    r"tok_embeddings\.weight|output\.weight|layers\.\d+\.(attention\.w[qkvo]|feed_forward\.w\d)\.weight"
)


@dataclass(frozen=True)
class OtherFiles:
    """The files of a model folder that are neither config.json nor read weights."""

    kept: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...]
    """What a reader should know of both."""


def sort_files(
    path: Path, names: Iterable[str], tensors: Mapping[str, TensorEntry], config: Mapping[str, JsonValue]
) -> OtherFiles:
    """Sort the files `names` of the model folder `path`, which has `tensors`."""
    kept: list[str] = []
    left: dict[str, list[str]] = {}
    new: list[str] = []
    cores = {_core(name) for name in tensors}
    for name in names:
        suffix = PurePosixPath(name).suffix
        if suffix == ".safetensors":
            reason = _explain_double(path, name, cores, config)
            if reason is None:
                new.append(name)
        else:
            reason = (
                "since they may hold the unedited weights in another format"
                if suffix in OTHER_WEIGHTS
                else None
            )
        if reason is None:
            kept.append(name)
        else:
            left.setdefault(reason, []).append(name)
    notes = [f"left behind, {reason}: {', '.join(files)}" for reason, files in left.items()]
    if new:
        notes.append(f"kept as they are, since none of their tensors is one of the model's: {', '.join(new)}")
    return OtherFiles(tuple(kept), tuple(name for files in left.values() for name in files), tuple(notes))


def _explain_double(
    path: Path, name: str, cores: Collection[str], config: Mapping[str, JsonValue]
) -> str | None:
    """Why a safetensors file may not stay beside edited weights."""
    try:
        entries = read_shard(path, name).tensors
    except CheckpointError:
        return "since they cannot be read as safetensors files"
    if any(_core(entry.name) in cores for entry in entries):
        return "since they hold the unedited weights"
    text = config.get("text_config")
    sizes = {config.get("vocab_size"), text.get("vocab_size") if isinstance(text, Mapping) else None}
    layers = text.get("num_hidden_layers") if isinstance(text, Mapping) else config.get("num_hidden_layers")
    for entry in entries:
        if _is_extra(entry.name, layers):
            continue
        tall = len(entry.shape) == 2 and entry.shape[0] in sizes
        if tall or MAKER.fullmatch(entry.name) or PurePosixPath(name).name.startswith("consolidated"):
            return "since they hold the unedited weights under other names"
    return None


def _core(name: str) -> str:
    while match := PREFIX.match(name):
        name = name[match.end() :]
    return name


def _is_extra(name: str, layers: JsonValue) -> bool:
    """Part of a head that predicts more tokens, which has an embedding of its own at times."""
    block = re.match(r"(?:\w+\.)*?layers\.(\d{1,6})\.", name)
    behind = block is not None and isinstance(layers, int) and int(block[1]) >= layers
    return behind or any(fnmatch.fnmatchcase(name, pattern) for pattern in EXTRA_HEADS)
