"""A bake that is cut off anywhere leaves nothing under the final name, and the next one ends in the
same bytes.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    file_hashes,
    unit,
)

from vectomy.checkpoint import Change, Checkpoint, rewrite, shard, writer
from vectomy.checkpoint.ranges import Range
from vectomy.core.errors import ArtifactError, DiskFullError
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake

TIER = "tiny"

EMBEDDING = "model.embed_tokens.weight"


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_too_little_space_is_said_before_anything_is_written(tiny_of, tmp_path: Path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="GiB free"):
        bake(Edit.ablation(tiny_of().folder, unit()), tiny_of().folder, tmp_path / "out")
    assert not [name for name in file_hashes(tmp_path) if name.endswith(".safetensors")]
    assert not (tmp_path / "out").exists()


class Interrupted:
    """Stand-in for the writer's block copy: lets `bytes_` bytes through, then raises."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.left, self.error, self.copy = after, error, shard.copy_range

    def __call__(self, source, target, piece: Range) -> None:
        self.left -= piece.length
        if self.left < 0:
            raise self.error
        self.copy(source, target, piece)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), MemoryError()],
    ids=["full-disk", "ctrl-c", "memory"],
)
@pytest.mark.parametrize("after", [0, 30_000, 60_000])
def test_an_interrupted_bake_leaves_no_output_and_resumes_to_the_same_bytes(
    tiny_of, tmp_path: Path, monkeypatch, after: int, error: BaseException
) -> None:
    tiny = tiny_of("mistral", tied=True, sharded=True)
    source, edit = file_hashes(tiny.folder), Edit.ablation(tiny.folder, unit())
    bake(edit, tiny.folder, tmp_path / "whole" / "out")
    with monkeypatch.context() as patch:
        patch.setattr(shard, "copy_range", Interrupted(after, error))
        with pytest.raises(DiskFullError if isinstance(error, OSError) else type(error)):
            bake(edit, tiny.folder, tmp_path / "out")
    assert left_in(tmp_path) == [".out.baking", "whole"]
    assert not list(tmp_path.rglob(".*.partial"))
    finished = list((tmp_path / ".out.baking").glob("*.safetensors"))
    assert bool(finished) is bool(after)
    stamps = {path.name: path.stat().st_mtime_ns for path in finished}
    bake(edit, tiny.folder, tmp_path / "out")
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "whole" / "out")
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in stamps} == stamps
    assert left_in(tmp_path) == ["out", "whole"]
    assert file_hashes(tiny.folder) == source


def test_what_another_edit_left_half_done_is_not_taken_over(tiny_of, tmp_path: Path, monkeypatch) -> None:
    tiny = tiny_of("mistral", tied=True, sharded=True)
    edit = Edit.ablation(tiny.folder, unit())
    bake(edit * 0.5, tiny.folder, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(shard, "copy_range", Interrupted(60_000, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            bake(edit, tiny.folder, tmp_path / "out")
    bake(edit * 0.5, tiny.folder, tmp_path / "out")
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "whole")


SLOW_BAKE = """
import sys, time
from vectomy.edits.export import bake
from vectomy.checkpoint import shard
from vectomy.edits.edit import Edit
copy = shard.copy_range
def slow(*args):
    time.sleep(0.2)
    copy(*args)
shard.copy_range = slow
print("ready", flush=True)
bake(Edit.load(sys.argv[1]), sys.argv[2], sys.argv[3])
"""


def test_a_bake_killed_at_random_times_resumes_to_the_same_bytes(tiny_of, tmp_path: Path) -> None:
    tiny = tiny_of("mistral", tied=True, sharded=True)
    edit = Edit.ablation(tiny.folder, unit())
    edit.save(tmp_path / "edit")
    bake(edit, tiny.folder, tmp_path / "whole")
    killed = 0
    for wait in (0.05, 0.3, 0.15):
        with subprocess.Popen(
            [sys.executable, "-c", SLOW_BAKE, tmp_path / "edit", tiny.folder, tmp_path / "out"],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            while not (tmp_path / ".out.baking").exists():
                time.sleep(0.01)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
    assert killed == 3
    assert (tmp_path / ".out.baking").exists()
    bake(edit, tiny.folder, tmp_path / "out")
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "whole")


@pytest.mark.parametrize("call", range(1, 15))
def test_stopping_before_any_rename_leaves_a_resumable_bake(
    tiny_of, tmp_path: Path, monkeypatch, call: int
) -> None:
    """Every file ends with a rename: stop before the n-th, run again, and the bytes are those of an
    undisturbed run.
    """
    tiny, replace, seen = tiny_of("llama", tied=True, sharded=True), Path.replace, []
    edit = Edit.ablation(tiny.folder, unit())

    def counted(self: Path, target: Path) -> Path:
        seen.append(self)
        if len(seen) == call:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        with pytest.raises(KeyboardInterrupt):
            bake(edit, tiny.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    bake(edit, tiny.folder, tmp_path / "out")
    bake(edit, tiny.folder, tmp_path / "whole")
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "whole")
    assert left_in(tmp_path) == ["out", "whole"]


def test_rewrite_refuses_a_change_of_shape(tiny_of, tmp_path: Path) -> None:
    opened = Checkpoint.open(tiny_of().folder)
    with pytest.raises(ValueError, match="a checkpoint keeps dtypes and shapes"):
        rewrite(opened, tmp_path / "out", [Change.of(EMBEDDING, lambda old: old[:1])])
    assert not (tmp_path / "out").exists()


def test_the_progress_of_a_bake_adds_up(tiny_of, tmp_path: Path) -> None:
    from contextlib import contextmanager

    counted: list[int] = []

    @contextmanager
    def progress(what: str, total: int, unit: str = ""):
        counted.append(-total)
        yield counted.append

    tiny = tiny_of(sharded=True)
    bake(Edit.ablation(tiny.folder, unit()), tiny.folder, tmp_path / "out", progress=progress)
    opened = Checkpoint.open(tiny.folder)
    assert counted[0] == -opened.bytes
    assert sum(counted) == 0
    assert os.path.isdir(tmp_path / "out")


# Two at once


def test_a_bake_that_takes_its_name_is_still_at_work(tiny_of, tmp_path: Path, monkeypatch) -> None:
    """In the moment before the folder is renamed a second bake took it over and emptied it."""
    tiny = tiny_of(sharded=True)
    edit, other = (Edit.ablation(tiny.folder, unit(), strength) for strength in (1.0, 0.5))
    bake(edit, tiny.folder, tmp_path / "calm")
    replace, tried = Path.replace, []

    def rename(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "out":
            monkeypatch.setattr(Path, "replace", replace)
            for late in (edit, other):
                with pytest.raises(ArtifactError, match="another process is writing"):
                    bake(late, tiny.folder, tmp_path / "out")
                tried.append(late)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", rename)
    bake(edit, tiny.folder, tmp_path / "out")
    assert len(tried) == 2
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "calm")


def test_a_bake_finds_what_another_finished_meanwhile(tiny_of, tmp_path: Path, monkeypatch) -> None:
    tiny = tiny_of(sharded=True)
    edit, out = Edit.ablation(tiny.folder, unit()), tmp_path / "out"
    identify = writer._identity

    def identify_late(checkpoint: Checkpoint) -> list[Any]:
        monkeypatch.setattr(writer, "_identity", identify)
        bake(edit, tiny.folder, out)
        return identify(checkpoint)

    monkeypatch.setattr(writer, "_identity", identify_late)
    with pytest.raises(ArtifactError, match="exists and is not empty"):
        bake(edit, tiny.folder, out)
    bake(edit, tiny.folder, tmp_path / "calm")
    assert file_hashes(out) == file_hashes(tmp_path / "calm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calm", "out"]
