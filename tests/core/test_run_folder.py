"""Files appear whole or not at all. A stage runs once for the same inputs."""

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vectomy.core import run_folder as artifacts
from vectomy.core.errors import ArtifactError, DiskFullError
from vectomy.core.run_folder import (
    Journal,
    RunFolder,
    canonical_json,
    hash_of,
    read_json,
    sha256_file,
    write_json,
    write_whole,
)

TIER = "unit"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


# Whole files


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()], ids=["error", "ctrl-c"])
@pytest.mark.parametrize("existing", [None, "old"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, existing: str | None, error: BaseException
) -> None:
    path = tmp_path / "file"
    if existing:
        path.write_text(existing)

    def write() -> None:
        with write_whole(path) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names(tmp_path) == (["file"] if existing else [])
    assert not existing or path.read_text() == existing


def test_a_file_takes_its_name_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with write_whole(path) as beside:
        beside.write_text("all")
        assert not path.exists()
        assert beside.stat().st_dev == path.parent.stat().st_dev
    assert path.read_text() == "all"
    assert names(path.parent) == ["file"]


KILLED_IN_A_LIBRARY = """
import os, signal, sys
from pathlib import Path
from vectomy.core.run_folder import write_whole
with write_whole(Path(sys.argv[1])) as beside:
    # As safetensors' save_file does: a file with a name of its own, renamed to the one asked for.
    beside.with_name(".tmpAbCdEf").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_library_leaves_beside_is_cleared(tmp_path: Path) -> None:
    with RunFolder(tmp_path):
        pass
    dead = subprocess.run(
        [sys.executable, "-c", KILLED_IN_A_LIBRARY, str(tmp_path / "sub" / "file")], check=False
    )
    assert dead.returncode == -signal.SIGKILL
    assert ".tmpAbCdEf" in names(tmp_path)
    with RunFolder(tmp_path):
        assert names(tmp_path) == ["sub", artifacts.MARK]


def test_a_full_disk_while_writing_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="run the same"):
        write_json(tmp_path / "file.json", {})
    assert names(tmp_path) == []


# JSON


def test_canonical_json_and_its_hash_do_not_depend_on_the_order_of_keys() -> None:
    one, other = {"b": [1, {"y": 2, "x": 3}], "a": "é"}, {"a": "é", "b": [1, {"x": 3, "y": 2}]}
    assert canonical_json(one) == canonical_json(other)
    assert hash_of(one) == hash_of(other) != hash_of({"a": "é", "b": [{"x": 3, "y": 2}, 1]})


def test_json_is_read_as_written_and_a_damaged_one_named(tmp_path: Path) -> None:
    path, value = tmp_path / "a.json", {"text": "é\u2028", "n": [1.5, None]}
    write_json(path, value)
    assert read_json(path) == value
    for data, message in (
        (b"{", "does not parse"),
        (b"\xff", "does not parse"),
        (b"9" * 5000, "does not parse"),
    ):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=f"a.json {message}"):
            read_json(path)
    with pytest.raises(ArtifactError, match="does not exist"):
        read_json(tmp_path / "none.json")


def test_sha256_of_a_file_larger_than_a_block_is_hashlibs(tmp_path: Path) -> None:
    import hashlib

    data = bytes(range(256)) * (1 << 15)
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


# Journal


class Work:
    """Counts its calls by key."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, journal: Journal, key: str) -> object:
        return journal.get_or_compute(key, lambda: self.calls.append(key) or {"of": key, "pair": (1, 2)})


def journal_with(path: Path, keys: str, inputs: object = 1) -> Work:
    work, journal = Work(), Journal(path, inputs)
    for key in keys:
        work(journal, key)
    return work


def test_a_journal_does_each_piece_once_across_runs(tmp_path: Path) -> None:
    path = tmp_path / "stage.journal"
    assert journal_with(path, "abab").calls == ["a", "b"]
    again = journal_with(path, "abc")
    assert again.calls == ["c"]
    journal = Journal(path, 1)
    assert "c" in journal
    assert "d" not in journal
    assert journal.get_or_compute("a", pytest.fail) == {"of": "a", "pair": [1, 2]}


def test_the_first_value_is_what_a_later_run_reads(tmp_path: Path) -> None:
    fresh = Journal(tmp_path / "j", 1).get_or_compute("a", lambda: {"t": (1, 2)})
    assert fresh == Journal(tmp_path / "j", 1).get_or_compute("a", pytest.fail) == {"t": [1, 2]}


def test_a_journal_cut_off_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "stage.journal"
    journal_with(path, "abc")
    data = path.read_bytes()
    for length in (*range(0, len(data), 5), len(data) - 1, len(data)):
        path.write_bytes(data[:length])
        whole = max(0, data[:length].count(b"\n") - 1)
        assert journal_with(path, "abc").calls == list("abc")[whole:]
        assert path.read_bytes() == data


@pytest.mark.parametrize(
    "line", [b"{half", b"\xff\xfe", b"3", b"{}", b'{"key": 1}', b'{"key": [], "value": 1}', b"9" * 5000]
)
def test_a_line_that_is_no_piece_ends_what_is_believed(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "stage.journal"
    journal_with(path, "ab")
    header, first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([header, first, line, second, b""]))
    assert journal_with(path, "ab").calls == ["b"]


def test_a_journal_of_other_inputs_is_dropped(tmp_path: Path) -> None:
    journal_with(tmp_path / "j", "ab", inputs={"seed": 1})
    assert journal_with(tmp_path / "j", "ab", inputs={"seed": 2}).calls == ["a", "b"]


def test_a_piece_that_fails_is_not_recorded(tmp_path: Path) -> None:
    def fails() -> object:
        raise ZeroDivisionError

    journal = Journal(tmp_path / "j", 1)
    with pytest.raises(ZeroDivisionError):
        journal.get_or_compute("a", fails)
    assert "a" not in journal
    assert "a" not in Journal(tmp_path / "j", 1)


# The run folder


class Stage:
    """Writes a file and a folder, and counts."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.count = run, 0

    def __call__(self, inputs: object = 1, text: str = "made") -> str:
        return self.run.stage("make", "start", inputs, ["out.txt", "model"], lambda: self.write(text))

    def write(self, text: str = "made") -> None:
        self.count += 1
        self.run.file("out.txt").write_text(text)
        self.run.file("model").mkdir(exist_ok=True)
        (self.run.file("model") / "weights").write_text(text)


@pytest.fixture
def run(tmp_path: Path):
    with RunFolder(tmp_path / "run") as run:
        yield run


def test_a_stage_is_skipped_for_the_same_inputs_and_says_the_same_hash(run: RunFolder) -> None:
    stage = Stage(run)
    assert stage({"a": 1, "b": 2}) == stage({"b": 2, "a": 1})
    assert stage.count == 1
    assert run.reused == ["make"]
    assert set(run.costs()) == {"make"}


def test_a_journal_that_a_kill_left_behind_a_finished_stage_is_removed(run: RunFolder) -> None:
    stage = Stage(run)
    stage()
    left = run.path / "stages" / "make.journal"
    left.write_text("")
    stage()
    assert (stage.count, left.exists()) == (1, False)


def test_a_stage_runs_again_for_other_inputs(run: RunFolder) -> None:
    stage = Stage(run)
    first = stage(1)
    assert stage(2, "other") != first
    assert stage(1) == first
    assert stage.count == 3


def test_a_stage_depends_on_what_earlier_ones_read_also_where_they_wrote_the_same(run: RunFolder) -> None:
    second = Stage(run)

    def both(inputs: int) -> str:
        before = run.stage(
            "first", "start", inputs, ["same.txt"], lambda: run.file("same.txt").write_text("same")
        )
        return run.stage("make", before, [], ["out.txt", "model"], second.write)

    assert both(1) != both(2)
    assert second.count == 2


CHANGES = {
    "edited": lambda path: (path / "out.txt").write_text("edited"),
    "deleted": lambda path: (path / "out.txt").unlink(),
    "folder-grown": lambda path: (path / "model" / "more").write_text("x"),
    "folder-shrunk": lambda path: (path / "model" / "weights").unlink(),
    "folder-resized": lambda path: (path / "model" / "weights").write_text("longer than before"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_stage_runs_again_when_what_it_wrote_was_changed(run: RunFolder, change: str) -> None:
    stage = Stage(run)
    stage()
    CHANGES[change](run.path)
    stage()
    assert stage.count == 2
    assert run.reused == []


def test_a_stage_that_fails_is_not_done(run: RunFolder) -> None:
    def fails() -> None:
        run.file("out.txt").write_text("half")
        raise ZeroDivisionError

    Stage(run)()
    with pytest.raises(ZeroDivisionError):
        run.stage("make", "start", 2, ["out.txt"], fails)
    stage = Stage(run)
    stage(2)
    assert stage.count == 1


def test_the_journal_of_a_stage_goes_when_the_stage_is_done(run: RunFolder) -> None:
    def work() -> None:
        run.journal("make").get_or_compute("a", lambda: 1)
        assert (run.path / "stages" / "make.journal").exists()

    run.stage("make", "start", 1, [], work)
    assert not (run.path / "stages" / "make.journal").exists()


def test_a_journal_is_good_for_the_inputs_of_its_stage_alone(run: RunFolder) -> None:
    """Cut off half-way and started again with other inputs, a stage finds nothing of the first
    start.
    """
    seen = []

    def work(value: int, cut: bool) -> None:
        seen.append(run.journal("make").get_or_compute("piece", lambda: value))
        if cut:
            raise KeyboardInterrupt

    for inputs, cut in (("old prompts", True), ("old prompts", True), ("new prompts", False)):
        with contextlib.suppress(KeyboardInterrupt):
            run.stage("make", "start", inputs, [], lambda cut=cut: work(len(seen), cut))
    assert seen == [0, 0, 2]


@pytest.mark.parametrize("text", ["[]", "{}", '{"inputs_sha256": 1}', "3"])
def test_a_record_changed_by_hand_is_not_believed(run: RunFolder, text: str) -> None:
    stage = Stage(run)
    stage()
    (run.path / "stages" / "make.json").write_text(text)
    stage()
    assert stage.count == 2
    assert json.loads((run.path / "stages" / "make.json").read_text())["inputs"] == 1


def test_a_record_that_does_not_parse_is_named(run: RunFolder) -> None:
    stage = Stage(run)
    stage()
    (run.path / "stages" / "make.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"make.json does not parse"):
        stage()


def test_a_folder_that_is_no_run_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="no vectomy run"), RunFolder(tmp_path):
        pass
    with pytest.raises(ArtifactError, match="is a file"), RunFolder(tmp_path / "thesis.txt"):
        pass
    assert names(tmp_path) == ["thesis.txt"]


def test_an_empty_folder_and_an_earlier_run_are_taken(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        Stage(run)()
    (tmp_path / "model" / ".weights.1.partial").write_text("half")
    with RunFolder(tmp_path) as run:
        stage = Stage(run)
        stage()
    assert stage.count == 0
    assert ".weights.1.partial" not in names(tmp_path)
    assert json.loads((tmp_path / artifacts.MARK).read_text())["format"] == "vectomy-run"


OTHER = """
import sys
from pathlib import Path
from vectomy.core.run_folder import RunFolder
from vectomy.core.errors import ArtifactError
try:
    with RunFolder(Path(sys.argv[1])):
        print("taken")
except ArtifactError as error:
    print(error)
"""


def other_process(folder: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", OTHER, folder], capture_output=True, text=True, check=True
    ).stdout


def test_a_second_process_is_kept_out_until_the_first_is_done(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        half = run.file(".out.txt.1.partial")
        half.write_text("being written")
        assert "another run is at work" in other_process(run.path)
        assert half.exists()
    assert other_process(run.path) == "taken\n"


def test_the_lock_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run"):
        raise ZeroDivisionError
    with RunFolder(tmp_path / "run"):
        pass


def test_a_journal_line_that_was_changed_is_computed_again_and_an_old_one_is_believed(tmp_path: Path) -> None:
    file, inputs = tmp_path / "stage.journal", {"seed": 1}
    journal = Journal(file, inputs)
    for number in range(4):
        journal.get_or_compute(f"piece {number}", lambda number=number: {"rate": number / 7})
    whole = file.read_text()
    # One bit of a number: still JSON, and another rate.
    file.write_text(whole.replace("0.285", "0.385"))
    again = Journal(file, inputs)
    assert again.get_or_compute("piece 1", lambda: "not asked") == {"rate": 1 / 7}
    assert again.get_or_compute("piece 2", lambda: {"rate": 2 / 7}) == {"rate": 2 / 7}
    assert "piece 3" not in again
    # Another bit, of the checksum's name.
    file.write_text(whole.replace("0.285", "0.385").replace('"check":', '"chdck":'))
    assert "piece 1" not in Journal(file, inputs)
    # Lines of earlier versions.
    file.write_text("\n".join(re.sub(r'"check":"\w+",', "", line) for line in whole.split("\n")))
    assert "check" not in file.read_text()
    assert all(f"piece {number}" in Journal(file, inputs) for number in range(4))


@pytest.mark.parametrize("place", ["pipe", "device", "loop", "folder"])
def test_what_is_no_file_in_the_place_of_an_output_is_refused_and_not_read(
    tmp_path: Path, place: str
) -> None:
    """A pipe or a device would be hashed for ever."""

    def finish() -> None:
        with RunFolder(tmp_path / "run") as run:
            run.stage("apply", "", {}, ["made.json"], lambda: write_json(run.file("made.json"), [1]))

    finish()
    made = tmp_path / "run" / "made.json"
    made.unlink()
    if place == "pipe":
        os.mkfifo(made)
    elif place == "folder":
        made.mkdir()
    else:
        made.symlink_to("/dev/zero" if place == "device" else made)
    with pytest.raises(ArtifactError, match=r"made\.json"):
        finish()
