"""One process at a time, on every system: with flock, with Windows' locked bytes, and no crash
without either.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

TIER = "unit"

# Windows' module over POSIX's locks of a range, which follow the same rules.
WINDOWS = """
# subprocess takes this system for Windows where there is an msvcrt: it is imported before.
import fcntl, multiprocessing, subprocess, sys, types
real, sys.modules["fcntl"] = fcntl, None
def locking(handle, mode, count):
    assert mode == 2, "LK_NBLCK"
    real.lockf(handle, real.LOCK_EX | real.LOCK_NB, count, 0, 1)
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
"""
NEITHER = "import subprocess, sys; sys.modules['fcntl'] = sys.modules['msvcrt'] = None\n"
SYSTEMS = {"posix": "", "windows": WINDOWS}

HOLD = """
import sys
from vectomy.core.file_lock import try_lock
with open(sys.argv[1], "a+") as file:
    file.write("written while locked\\n")
    print(try_lock(file), flush=True)
    file.write("and after\\n")
    file.flush()
    sys.stdin.read()
"""


def start(system: str, file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SYSTEMS[system] + HOLD, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("end", ["closed", "killed"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_lock_keeps_others_out_until_its_process_ends(tmp_path: Path, system: str, end: str) -> None:
    file = tmp_path / "mark"
    first = start(system, file)
    assert answer(first) == "True"
    second = start(system, file)
    assert answer(second) == "False"
    # What is locked can be read by others.
    assert "written while locked\nand after\n" in file.read_text()
    second.communicate()
    if end == "killed":
        first.send_signal(signal.SIGKILL)
    first.communicate()
    third = start(system, file)
    assert answer(third) == "True"
    third.communicate()


@pytest.mark.tiny
@pytest.mark.parametrize("system", ["windows", "neither"])
def test_every_command_can_be_asked_for_without_the_modules_of_posix(tmp_path: Path, system: str) -> None:
    program = (
        (WINDOWS if system == "windows" else NEITHER)
        + "import vectomy, vectomy.models, vectomy.workflows.run, vectomy.workflows.evaluate.evaluation\n"
        + "import vectomy.workflows.heal, vectomy.checkpoint.writer\n"
        + "from pathlib import Path; from vectomy.core.run_folder import RunFolder, write_json\n"
        + "with RunFolder(Path(sys.argv[1])) as folder: write_json(folder.file('a.json'), 1)\n"
        + "from vectomy.cli import main; sys.argv[1:] = ['--help']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert "Usage" in done.stdout
