"""Rewrite some tensors of a checkpoint, shard by shard; every other byte stays as it was.

The new folder is built beside its final place, one tensor in memory at a time, and renamed when it is whole. A shard
that is finished in the folder beside is not written again, so a killed rewrite goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vectomy.artifacts import disk_full_named, hash_of, write_json, write_whole
from vectomy.checkpoint.index import INDEX, Checkpoint, Shard
from vectomy.checkpoint.reader import TORCH_DTYPES, read_tensor, sidecar_digest
from vectomy.errors import ArtifactError, DiskFullError
from vectomy.progress import Progress, silent

__all__ = ["rewrite"]

BLOCK = 1 << 22

Change = Callable[[Tensor], Tensor]


def rewrite(
    checkpoint: Checkpoint,
    out: str | Path,
    changes: Mapping[str, Change],
    *,
    copies: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    omit: Collection[str] = (),
    purpose: str = "",
    progress: Progress = silent,
) -> None:
    """Write `checkpoint` to the new folder `out` with some tensors changed.

    Args:
        changes: by tensor name, what the new value is made of the old one with; dtype and shape must stay.
        copies: new tensor name -> existing tensor whose unchanged bytes it gets, put into that tensor's shard.
        config: keys of config.json to set.
        omit: sidecar files that the new folder does not get.
        purpose: identifies the change; a rewrite cut off with another purpose is started over.

    Raises:
        ArtifactError: `out` exists and is not empty, or lies inside the source.
        DiskFullError: checked before the first byte is written, and whenever writing fails.
    """
    out = Path(out).absolute()
    copies = dict(copies or {})
    if out.resolve() == checkpoint.path.resolve() or checkpoint.path.resolve() in out.resolve().parents:
        raise ArtifactError(
            f"the output folder {out} is the model folder or lies in it; the input is never touched, choose another"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"the output folder {out} exists and is not empty; choose another or delete it")
    beside = out.with_name(f".{out.name}.baking")
    whole = hash_of([purpose, sorted(changes), sorted(copies.items()), config, sidecar_digest(checkpoint)])
    _clear_unless_same(beside, whole)
    _check_space(checkpoint, copies, beside)
    with disk_full_named(beside), progress("baking", checkpoint.bytes, "bytes") as advance:
        with write_whole(beside / _PURPOSE) as path:
            path.write_text(whole, encoding="utf-8")
        for shard in checkpoint.shards:
            if (beside / shard.name).exists():
                advance(shard.size)
                continue
            with write_whole(beside / shard.name) as path:
                _write_shard(checkpoint, shard, path, changes, copies, advance)
        _write_index(checkpoint, beside, copies)
        for name in (name for name in checkpoint.sidecars if name not in omit):
            with write_whole(beside / name) as path:
                shutil.copyfile(checkpoint.path / name, path)
        if config:
            write_json(beside / "config.json", {**checkpoint.config, **config})
        else:
            with write_whole(beside / "config.json") as path:
                shutil.copyfile(checkpoint.path / "config.json", path)
        (beside / _PURPOSE).unlink()
    if out.exists():
        out.rmdir()
    beside.replace(out)


_PURPOSE = ".purpose"


def _clear_unless_same(beside: Path, purpose: str) -> None:
    """Keep in the folder beside only what an interrupted rewrite of the same purpose finished there."""
    mark = beside / _PURPOSE
    if beside.exists() and not (mark.exists() and mark.read_text(encoding="utf-8") == purpose):
        shutil.rmtree(beside)
    for partial in beside.rglob(".*.partial"):
        partial.unlink()


def _check_space(checkpoint: Checkpoint, copies: Mapping[str, str], beside: Path) -> None:
    done = sum(file.stat().st_size for file in beside.glob("*.safetensors"))
    extra = sum(checkpoint.tensors[name].end - checkpoint.tensors[name].start for name in copies.values())
    sidecars = sum((checkpoint.path / name).stat().st_size for name in checkpoint.sidecars)
    needed = checkpoint.bytes + extra + sidecars - done
    existing = next(folder for folder in beside.parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise DiskFullError(
            f"{existing} has {free / 2**30:.2f} GiB free and the checkpoint takes {needed / 2**30:.2f} GiB; free some space"
        )


def _write_shard(
    checkpoint: Checkpoint,
    shard: Shard,
    path: Path,
    changes: Mapping[str, Change],
    copies: Mapping[str, str],
    advance: Callable[[int], None],
) -> None:
    appended = [
        (new, checkpoint.tensors[old]) for new, old in copies.items() if checkpoint.tensors[old].shard == shard.name
    ]
    with (checkpoint.path / shard.name).open("rb") as source, path.open("wb") as target:
        header = _longer_header(shard, appended) if appended else shard.header
        target.write(struct.pack("<Q", len(header)))
        target.write(header)
        for entry in shard.tensors:
            if entry.name in changes:
                old = read_tensor(checkpoint, entry.name)
                new = changes[entry.name](old)
                assert new.shape == old.shape, f"{entry.name}: {tuple(old.shape)} became {tuple(new.shape)}"
                target.write(_as_bytes(new.to(TORCH_DTYPES[entry.dtype])))
            else:
                _copy(source, target, entry.start, entry.end)
            advance(entry.end - entry.start)
        for _, entry in appended:
            _copy(source, target, entry.start, entry.end)
        target.flush()
        os.fsync(target.fileno())


def _longer_header(shard: Shard, appended: list[tuple[str, Any]]) -> bytes:
    """The header with more tensors at the end, padded with spaces to 8 bytes as the format asks."""
    listing = json.loads(shard.header)
    at = shard.size - shard.data_start
    for name, entry in appended:
        length = entry.end - entry.start
        listing[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(listing, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _as_bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().view(torch.uint8).numpy()).cast("B")


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    source.seek(start)
    while start < end:
        block = source.read(min(BLOCK, end - start))
        target.write(block)
        start += len(block)


def _write_index(checkpoint: Checkpoint, beside: Path, copies: Mapping[str, str]) -> None:
    if checkpoint.index is None:
        return
    if not copies:
        with write_whole(beside / INDEX) as path:
            shutil.copyfile(checkpoint.path / INDEX, path)
        return
    index = json.loads(json.dumps(checkpoint.index))
    for new, old in copies.items():
        entry = checkpoint.tensors[old]
        index["weight_map"][new] = entry.shard
        metadata = index.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("total_size"), int):
            metadata["total_size"] += entry.end - entry.start
    write_json(beside / INDEX, index)
