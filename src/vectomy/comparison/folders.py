"""Hold a rebuilt folder against a published one, or against recorded hashes: tensor by tensor, byte
by byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vectomy.checkpoint import Checkpoint, read_stored
from vectomy.checkpoint.index import RECORDS
from vectomy.checkpoint.reader import STORED_DTYPES
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import read_json, sha256_file
from vectomy.hub.provenance import Form, adapter_weights, hashes_in

__all__ = ["FileDifference", "against_hashes", "compare_files", "compare_tensors"]

# The sign and magnitude of a float as an integer of its length: neighbouring floats differ by one.
INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


@dataclass(frozen=True)
class FileDifference:
    """One thing that is not as it was published. `kind` is tensor, file, base, edit or record;
    `steps` says of a tensor how many roundings of its format the furthest number is away,
    `relative` the length of the difference by that of the published.
    """

    kind: str
    name: str
    text: str
    steps: int | None = None
    relative: float | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.text}" if self.name else f"{self.kind}: {self.text}"


def compare_tensors(
    rebuilt: Path, published: Path, form: Form, progress: Progress = silent
) -> tuple[int, list[FileDifference]]:
    """How many tensors were compared, and those that differ.

    Raises:
        CheckpointError: one of the folders is not whole.
    """
    mine, theirs = _weights(rebuilt, form), _weights(published, form)
    names = sorted({*mine.tensors, *theirs.tensors})
    differences = []
    with progress(
        "comparing", sum(entry.end - entry.start for entry in mine.tensors.values()), "bytes"
    ) as update:
        for name in names:
            difference = _tensor(mine, theirs, name)
            if difference is not None:
                differences.append(difference)
            if name in mine.tensors:
                update(mine.tensors[name].end - mine.tensors[name].start)
    return len(names), differences


def _weights(folder: Path, form: Form) -> Checkpoint:
    return Checkpoint.open(folder) if form == "checkpoint" else adapter_weights(folder)


def _tensor(mine: Checkpoint, theirs: Checkpoint, name: str) -> FileDifference | None:
    here, there = mine.tensors.get(name), theirs.tensors.get(name)
    if here is None or there is None:
        return FileDifference(
            "tensor", name, "published, but not rebuilt" if here is None else "rebuilt, but not published"
        )
    if (here.dtype, here.shape) != (there.dtype, there.shape):
        return FileDifference(
            "tensor",
            name,
            f"rebuilt as {here.dtype} {list(here.shape)}, published as {there.dtype} {list(there.shape)}",
        )
    if here.dtype not in STORED_DTYPES:
        same = _raw(mine, name) == _raw(theirs, name)
        return (
            None if same else FileDifference("tensor", name, f"other bytes ({here.dtype}, not read further)")
        )
    rebuilt, published = read_stored(mine, name), read_stored(theirs, name)
    if torch.equal(_bytes(rebuilt), _bytes(published)):
        return None
    return _how_far(name, rebuilt, published, here.dtype)


def _raw(checkpoint: Checkpoint, name: str) -> bytes:
    """The raw bytes of a tensor in a format that torch has not."""
    entry = checkpoint.tensors[name]
    with (checkpoint.path / entry.shard).open("rb") as file:
        file.seek(entry.start)
        return file.read(entry.end - entry.start)


def _bytes(value: Tensor) -> Tensor:
    return value.contiguous().reshape(-1).view(torch.uint8)


def _how_far(name: str, mine: Tensor, published: Tensor, stored: str) -> FileDifference:
    count, total = int((_bytes(mine) != _bytes(published)).sum()), mine.numel()
    if mine.dtype not in INTEGERS:
        return FileDifference("tensor", name, f"{count} of {len(_bytes(mine))} bytes differ ({stored})")
    count = int((mine.view(INTEGERS[mine.dtype]) != published.view(INTEGERS[mine.dtype])).sum())
    a, b = mine.double(), published.double()
    largest = float((a - b).abs().max())
    length = float(b.norm())
    relative = float((a - b).norm()) / length if length else float("inf")
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return FileDifference(
            "tensor", name, f"{count} of {total} numbers differ, some of them NaN or infinite"
        )
    steps = int((_ordered(mine) - _ordered(published)).abs().max())
    unit = "rounding step" if steps == 1 else "rounding steps"
    text = (
        f"{count} of {total} numbers differ, by at most {largest:.3g} ({steps:,} {unit} of {stored}), "
        f"{relative:.2g} of its length"
    )
    return FileDifference("tensor", name, text, steps, relative)


def _ordered(value: Tensor) -> Tensor:
    """Integers in the order of the floats: the bits of a positive float grow with it, those of a
    negative one against it.
    """
    kind = INTEGERS[value.dtype]
    bits = value.view(kind).long()
    return torch.where(bits < 0, torch.iinfo(kind).min - bits, bits)


def against_hashes(
    rebuilt: Path, form: Form, recorded: Mapping[str, str], progress: Progress = silent
) -> list[FileDifference]:
    """What of a rebuilt folder has another sha256 than was recorded."""
    hashes = hashes_in(rebuilt, form, progress)
    texts = {
        name: "recorded, but not rebuilt"
        if name not in hashes
        else "rebuilt, but not recorded"
        if name not in recorded
        else f"rebuilt with sha256 {hashes[name][:12]}, recorded {recorded[name][:12]}"
        for name in sorted({*hashes, *recorded})
        if hashes.get(name) != recorded.get(name)
    }
    return [FileDifference("tensor", name, text) for name, text in texts.items()]


def compare_files(rebuilt: Path, published: Path, form: Form) -> tuple[list[FileDifference], list[str]]:
    """Files beside the weights that differ (configuration, tokenizer, template), and names that
    only the published folder has.
    """
    mine, theirs = _beside(rebuilt, form), _beside(published, form)
    differences = []
    for name in sorted(mine):
        if name not in theirs:
            differences.append(FileDifference("file", name, "rebuilt, but not published"))
        elif not _same_file(rebuilt / name, published / name):
            differences.append(FileDifference("file", name, _said(rebuilt / name, published / name)))
    return differences, sorted(theirs - mine)


def _beside(folder: Path, form: Form) -> set[str]:
    weights: set[str] = set()
    if form == "checkpoint":
        opened = Checkpoint.open(folder)
        weights = {*opened.other_weights, *(shard.name for shard in opened.shards)}
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    shown = {
        file.as_posix()
        for file in files
        if not any(part.startswith(".") for part in file.parts) and file.parts[0] != RECORDS
    }
    return shown - weights - {"README.md", "adapter_model.safetensors", "edit.safetensors"}


def _same_file(mine: Path, published: Path) -> bool:
    if mine.name == "adapter_config.json":
        # The base is named as the place that publishes it knows it.
        return _less(mine, "base_model_name_or_path") == _less(published, "base_model_name_or_path")
    if mine.suffix == ".json" and mine.stat().st_size < 1 << 20:
        return json.dumps(read_json(mine), sort_keys=True) == json.dumps(read_json(published), sort_keys=True)
    return sha256_file(mine) == sha256_file(published)


def _less(path: Path, key: str) -> JsonObject:
    return {name: value for name, value in dict(read_json(path)).items() if name != key}


def _said(mine: Path, published: Path) -> str:
    if mine.suffix != ".json":
        return "other content than the rebuilt one"
    rebuilt_values, published_values = read_json(mine), read_json(published)
    if not isinstance(rebuilt_values, dict) or not isinstance(published_values, dict):
        return "other content than the rebuilt one"
    keys = sorted(
        key
        for key in {*rebuilt_values, *published_values}
        if rebuilt_values.get(key) != published_values.get(key)
    )
    return f"other values of {', '.join(keys[:6])}{' …' if len(keys) > 6 else ''}"
