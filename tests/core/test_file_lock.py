"""One process at a time, on every system: with flock, with the locks beside files of Windows, and
without any locks.
"""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vectomy.core import file_lock
from vectomy.core.file_lock import hold_lock, lock_while

TIER = "tiny"

# Earlier versions locked the file itself like this.
EARLIER = """
import fcntl, sys
with open(sys.argv[1], "a+") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print(True, flush=True)
    except BlockingIOError:
        print(False, flush=True)
    sys.stdin.read()
"""
POSIX = """
import sys
from pathlib import Path
from vectomy.core import file_lock
release = file_lock.hold_lock(Path(sys.argv[1]))
print(release is not None, flush=True)
sys.stdin.read()
if release is not None:
    release()
"""
# The names that file_lock looks up in `os`, with the name of Windows.
WINDOWS = POSIX.replace(
    "release =",
    "import os, types\n"
    "file_lock.os = types.SimpleNamespace(name='nt', fstat=os.fstat, path=os.path)\n"
    "release =",
)
SYSTEMS = {"posix": POSIX, "windows": WINDOWS, "earlier": EARLIER}


def start(system: str, file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SYSTEMS[system], str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("end", ["closed", "killed"])
@pytest.mark.parametrize(
    ("holder", "other"),
    [("posix", "posix"), ("windows", "windows"), ("earlier", "posix"), ("posix", "earlier")],
)
def test_a_lock_keeps_others_out_until_its_process_ends(
    tmp_path: Path, holder: str, other: str, end: str
) -> None:
    file = tmp_path / "mark"
    file.write_text("what it says", encoding="utf-8")
    first = start(holder, file)
    assert answer(first) == "True"
    second = start(other, file)
    assert answer(second) == "False"
    second.communicate()
    if end == "killed":
        first.send_signal(signal.SIGKILL)
    first.communicate()
    third = start(other, file)
    assert answer(third) == "True"
    third.communicate()
    assert file.read_text(encoding="utf-8") == "what it says"
    assert [path.name for path in tmp_path.iterdir()] == ["mark"]


def test_a_lock_beside_a_folder_is_held_once_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.lock"
    with lock_while(path) as first, lock_while(path) as second:
        assert (first, second) == (True, False)
        # The one that was kept out removes nothing.
        assert path.exists()
    assert not path.exists()
    with lock_while(path) as again:
        assert again


def test_a_lock_whose_file_its_last_holder_removed_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the holder removed it, locked after: it guards no name."""
    path = tmp_path / "out.lock"
    lock = file_lock.lock_descriptor

    def removed_meanwhile(number: int, *, blocking: bool) -> bool:
        path.unlink()
        return lock(number, blocking=blocking)

    monkeypatch.setattr("vectomy.core.file_lock.lock_descriptor", removed_meanwhile)
    with lock_while(path) as held:
        assert not held


@pytest.mark.parametrize("number", sorted(file_lock.WITHOUT_LOCKS))
def test_a_file_system_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def missing(*_: object, **__: object) -> bool:
        raise OSError(number, "no locks here")

    monkeypatch.setattr("vectomy.core.file_lock.lock_descriptor", missing)
    release = hold_lock(tmp_path / "mark")
    assert release is not None
    release()


def test_other_faults_of_a_lock_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> bool:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("vectomy.core.file_lock.lock_descriptor", broken)
    with pytest.raises(OSError, match="broken"):
        hold_lock(tmp_path / "mark")
