"""Rewrite some tensors of a checkpoint, shard by shard; every other byte stays as it was.

The new folder is built next to its final place and renamed when it is complete. A finished shard
is compared with its checksum and the source, and not written again, so a killed rewrite resumes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vectomy.checkpoint.change import Added, Change, by_tensor
from vectomy.checkpoint.index import INDEX, Checkpoint
from vectomy.checkpoint.reader import fingerprint, sidecar_digest
from vectomy.checkpoint.shard import ShardPlan, plan_shard, shard_holds, write_shard
from vectomy.core.errors import ArtifactError, DiskFullError
from vectomy.core.file_lock import lock_while
from vectomy.core.file_moves import move_into_place, sync_file
from vectomy.core.output_path import check_new_folder
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import Journal, clear_partials, hash_of, write_json, write_whole
from vectomy.core.write_errors import name_write_errors

__all__ = ["rewrite"]


def rewrite(
    checkpoint: Checkpoint,
    out: str | Path,
    changes: Sequence[Change],
    *,
    added: Mapping[str, Added] | None = None,
    config: Mapping[str, Any] | None = None,
    dropped: Collection[str] = (),
    dropped_keys: Collection[str] = (),
    omit: Collection[str] = (),
    link_untouched: bool = False,
    purpose: str = "",
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Write `checkpoint` to the new folder `out` with some tensors changed.

    Args:
        changes: groups of tensors and what makes their new values; one group at a time is in
            memory.
        added: by name, tensors that the source lacks, each a copy or made by a change that names
            it.
        config: keys of config.json to set.
        dropped: tensors of the source that the new folder does not get.
        dropped_keys: keys of config.json that it does not get.
        omit: sidecar files that the new folder does not get.
        link_untouched: shards without a change are hard links to the source's instead of copies.
            That saves their space, and whoever writes into one of the two later (vectomy never
            does: it replaces files) changes both.
        purpose: identifies the change; a rewrite cut off with another purpose is started over.

    Returns:
        What a reader should know of how it was done.

    Raises:
        CheckpointError: a tensor to be changed is not there, or one to be added is.
        ArtifactError: `out` exists and is not empty, or lies inside the source.
        DiskFullError: checked before the first byte is written, and whenever writing fails.
    """
    out = Path(out).absolute()
    added = dict(added or {})
    made = by_tensor(checkpoint, changes, added)
    check_new_folder(out, checkpoint.path)
    beside = out.with_name(f".{out.name}.baking")
    plans = [plan_shard(checkpoint, shard, made, added, dropped) for shard in checkpoint.shards]
    asked = [
        sorted(made),
        {name: vars(new) for name, new in added.items()},
        config,
        sorted(omit),
        link_untouched,
        # Of a rewrite that drops nothing, as earlier versions identified it.
        *([sorted(dropped), sorted(dropped_keys)] if dropped or dropped_keys else []),
    ]
    identity = hash_of([purpose, asked, _identity(checkpoint)])
    with name_write_errors(beside), _claim_folder(beside, out, identity), _one_thread():
        journal = Journal(beside / _JOURNAL, identity)
        finished = {plan.shard.name for plan in plans if _is_finished(checkpoint, plan, beside, journal)}
        _check_space(checkpoint, [plan for plan in plans if plan.shard.name not in finished], beside)
        with (
            progress("baking", sum(plan.size for plan in plans), "bytes") as update,
            ThreadPoolExecutor(1) as second,
        ):
            finishing: Future[None] | None = None
            for plan in plans:
                name, target = plan.shard.name, beside / plan.shard.name
                partial = target.with_name(f".{name}.{os.getpid()}.partial")
                if name in finished:
                    update(plan.size)
                    continue
                if link_untouched and plan.untouched and _link(checkpoint.path / name, partial):
                    crc = zlib.crc32(plan.header)
                    update(plan.size)
                else:
                    crc = write_shard(checkpoint, plan, partial, made, added, update)
                # While one shard is forced to disk, the next is written.
                if finishing is not None:
                    finishing.result()
                finishing = second.submit(_finish, partial, target, journal, crc)
            if finishing is not None:
                finishing.result()
        # From the files, since an interrupted process may have linked them.
        notes = [_link_note(checkpoint, plan, beside) for plan in plans if link_untouched and plan.untouched]
        _write_index(checkpoint, beside, added, dropped)
        for name in (name for name in checkpoint.sidecars if name not in omit):
            with write_whole(beside / name) as path:
                shutil.copyfile(checkpoint.path / name, path)
        if config or dropped_keys:
            kept = {key: value for key, value in checkpoint.config.items() if key not in dropped_keys}
            write_json(beside / "config.json", {**kept, **(config or {})})
        else:
            with write_whole(beside / "config.json") as path:
                shutil.copyfile(checkpoint.path / "config.json", path)
        (beside / _JOURNAL).unlink()
        (beside / _PURPOSE).unlink()
        check_new_folder(out)
        if out.exists():
            out.rmdir()
        move_into_place(beside, out)
    return tuple(notes)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are made tile by tile in one core's cache, and another core copies: more threads would
    wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# In the folder beside: what is being made there, and the finished shards with their checksums.
_PURPOSE, _JOURNAL = ".purpose", ".finished"


def _identity(checkpoint: Checkpoint) -> list[Any]:
    """What the source is: its weights by samples, its shards by size, time and header, its other
    files by content.
    """
    stats = [(shard, (checkpoint.path / shard.name).stat()) for shard in checkpoint.shards]
    shards = [[shard.name, stat.st_size, stat.st_mtime_ns, zlib.crc32(shard.header)] for shard, stat in stats]
    return [fingerprint(checkpoint), shards, sidecar_digest(checkpoint)]


@contextmanager
def _claim_folder(beside: Path, out: Path, identity: str) -> Iterator[None]:
    """The folder beside, for this process alone, with only what an interrupted rewrite of the same
    identity finished.

    The lock is on a file beside it: one on a file in it would end before the folder has its name.
    """
    if beside.exists() and not beside.is_dir():
        raise ArtifactError(f"{beside} is a file where the folder in the making goes; delete it")
    with lock_while(beside.with_name(f"{beside.name}.lock")) as alone:
        if not alone:
            raise ArtifactError(f"another process is writing {beside}; wait for it or choose another folder")
        try:
            # Another process may have finished since the first look.
            check_new_folder(out)
        except ArtifactError:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        beside.mkdir(parents=True, exist_ok=True)
        mark = beside / _PURPOSE
        if not mark.exists() or mark.read_text(encoding="utf-8", errors="replace") != identity:
            for path in beside.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            mark.write_text(identity, encoding="utf-8", newline="\n")
        clear_partials(beside)
        try:
            yield
        finally:
            clear_partials(beside)


def _is_finished(checkpoint: Checkpoint, plan: ShardPlan, beside: Path, journal: Journal) -> bool:
    """Whether the shard is there, whole, as an earlier process with the same identity wrote it."""
    path = beside / plan.shard.name
    if plan.shard.name not in journal or not path.is_file():
        return False
    crc = journal.get_or_compute(plan.shard.name, lambda: None)
    return _is_linked(checkpoint, plan, beside) or shard_holds(checkpoint, plan, path, crc)


def _is_linked(checkpoint: Checkpoint, plan: ShardPlan, beside: Path) -> bool:
    return plan.untouched and (beside / plan.shard.name).samefile(checkpoint.path / plan.shard.name)


def _link_note(checkpoint: Checkpoint, plan: ShardPlan, beside: Path) -> str:
    if _is_linked(checkpoint, plan, beside):
        return f"{plan.shard.name} is a hard link to the source's: a change inside of one file changes both"
    return (
        f"{plan.shard.name} could not be linked (another file system, or the system forbids it); it is a copy"
    )


def _finish(partial: Path, target: Path, journal: Journal, crc: int) -> None:
    # A link is the source's file, which is on disk.
    if partial.stat().st_nlink == 1:
        sync_file(partial)
    # Before the name: a shard under its own name is always one that can be checked.
    journal.get_or_compute(target.name, lambda: crc)
    move_into_place(partial, target)


def _link(source: Path, partial: Path) -> bool:
    try:
        # Of what a symbolic link points to, as the Hub's cache has them.
        os.link(source.resolve(), partial)
    except OSError:
        return False
    return True


def _check_space(checkpoint: Checkpoint, unfinished: Sequence[ShardPlan], beside: Path) -> None:
    needed = sum(plan.size for plan in unfinished)
    needed += sum((checkpoint.path / name).stat().st_size for name in checkpoint.sidecars)
    free = shutil.disk_usage(beside).free
    if needed > free:
        raise DiskFullError(
            f"{beside.parent} has {free / 2**30:.2f} GiB free and the checkpoint takes {needed / 2**30:.2f} "
            "GiB; free some space"
        )


def _write_index(
    checkpoint: Checkpoint, beside: Path, added: Mapping[str, Added], dropped: Collection[str]
) -> None:
    if checkpoint.index is None:
        return
    if not added and not dropped:
        with write_whole(beside / INDEX) as path:
            shutil.copyfile(checkpoint.path / INDEX, path)
        return
    index = json.loads(json.dumps(checkpoint.index))
    index["weight_map"] |= {name: new.shard for name, new in added.items()}
    index["weight_map"] = {name: s for name, s in index["weight_map"].items() if name not in dropped}
    metadata = index.get("metadata")
    gone = [checkpoint.tensors[name] for name in dropped]
    more = {
        "total_size": sum(new.bytes for new in added.values()) - sum(e.end - e.start for e in gone),
        "total_parameters": sum(math.prod(new.shape) for new in added.values())
        - sum(math.prod(entry.shape) for entry in gone),
    }
    for key, count in more.items():
        if isinstance(metadata, dict) and isinstance(metadata.get(key), int):
            metadata[key] += count
    write_json(beside / INDEX, index)
