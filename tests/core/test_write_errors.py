"""Every fault of the system while writing is one sentence with the path and the remedy."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from vectomy.core.errors import ArtifactError, DiskFullError
from vectomy.core.output_path import check_file_output, check_new_folder, check_run_output
from vectomy.core.run_folder import RunFolder, write_json, write_whole
from vectomy.core.write_errors import REMEDIES, check_writable, describe_os_error, name_write_errors

TIER = "unit"

# No file system for files: stands in for a read-only one, for root too.
READ_ONLY = Path("/proc")
CHECKS = [check_file_output, check_new_folder, check_run_output, check_writable]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    usage = namedtuple("usage", "total used free")(9, 9, 3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with (
        pytest.raises(DiskFullError, match=r"deep/file \(3 MiB left\)"),
        name_write_errors(tmp_path / "deep" / "file"),
    ):
        raise OSError(number, "full")


def test_a_full_disk_is_named_also_when_a_library_says_it(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="disk is full"), name_write_errors(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("number", sorted(REMEDIES))
def test_a_system_error_names_path_and_remedy(tmp_path: Path, number: int) -> None:
    file = tmp_path / "out.json"
    with (
        pytest.raises(ArtifactError, match=r"out\.json cannot be written") as raised,
        name_write_errors(file),
    ):
        raise OSError(number, os.strerror(number), str(file))
    assert REMEDIES[number] in str(raised.value)
    assert str(file) in describe_os_error(OSError(number, os.strerror(number), str(file)))


def test_an_error_of_another_file_passes(tmp_path: Path) -> None:
    other = tmp_path.parent / "another" / "input.safetensors"
    with pytest.raises(FileNotFoundError), name_write_errors(tmp_path / "run" / "out.json"):
        other.read_bytes()
    with pytest.raises(ConnectionResetError), name_write_errors(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


@pytest.mark.skipif(not READ_ONLY.is_dir(), reason="no /proc on this system")
@pytest.mark.parametrize("check", CHECKS)
def test_a_place_that_takes_no_files_is_refused_before_work(check) -> None:
    with pytest.raises(ArtifactError, match="/proc/vectomy cannot be written: no folder can be made"):
        check(READ_ONLY / "vectomy")


@pytest.mark.parametrize("check", CHECKS)
def test_names_and_parents_are_checked_before_work(check, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="too long"):
        check(tmp_path / ("x" * 256))
    with pytest.raises(ArtifactError, match="too long"):
        check(tmp_path / ("x" * 256) / "run")
    with pytest.raises(ArtifactError, match="part of the path is a file"):
        check(tmp_path / "file" / "run")
    check(tmp_path / "missing" / "parents" / "run")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("check", CHECKS)
def test_what_a_killed_check_left_is_gone_after_the_next_and_nothing_else(check, tmp_path: Path) -> None:
    (tmp_path / ".vectomy-killed.partial").mkdir()
    (tmp_path / ".vectomy-full.partial").mkdir()
    (tmp_path / ".vectomy-full.partial" / "file").write_text("kept")
    check(tmp_path / "run")
    assert os.listdir(tmp_path) == [".vectomy-full.partial"]


def test_missing_parents_are_made_and_the_longest_name_is_written(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / ("x" * 255)
    write_json(file, {"a": 1})
    assert file.read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(file.parent) == [file.name]


def test_the_one_writer_and_the_run_folder_name_their_faults(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ArtifactError, match="part of the path is a file"),
        write_whole(tmp_path / "file" / "x"),
    ):
        pass
    with pytest.raises(ArtifactError, match="part of the path is a file"), RunFolder(tmp_path / "file" / "x"):
        pass


def test_a_size_limit_of_the_shell_is_named(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from vectomy.core.run_folder import write_json\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "write_json(Path(sys.argv[1]), list(range(9999)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out.json")], capture_output=True, text=True, check=False
    )
    assert "ArtifactError" in result.stderr
    assert "`ulimit -f`" in result.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 20672 vs 20564"),
        RuntimeError("basic_ios::clear: iostream error"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["safetensors", "torch", "torch at its end", "a C++ stream", "system"],
)
def test_a_stage_names_a_full_disk_whoever_wrote(error: Exception, tmp_path: Path) -> None:
    def work() -> None:
        raise error

    with RunFolder(tmp_path / "run") as folder:
        with pytest.raises(DiskFullError, match="the disk is full"):
            folder.stage("train", "", {}, [], work)
        with pytest.raises(RuntimeError, match="another"):
            folder.stage("train", "", {}, [], lambda: (_ for _ in ()).throw(RuntimeError("another")))
