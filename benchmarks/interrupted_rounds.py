"""A round of interruptions.py: a workload in forked children is killed, or its disk is full, or its
clock jumps, or it has a twin; then the same command ends, and its result is compared.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from deadly_calls import count_calls, die_in
from interrupted_workloads import Workload, digest_inputs

# Calls of this process that write.
CALLS = (
    "os.pwrite",
    "os.copy_file_range",
    "os.fsync",
    "os.link",
    "Path.replace",
    "Path.unlink",
    "Path.mkdir",
    "Path.write_text",
)
FAULTS = ("kill", "kill", "kill", "kill", "full", "clock", "two")
YEARS = 10 * 365 * 86400
# How a child ends: well, with a VectomyError, with any other exception.
WELL, REFUSED, BROKEN = 0, 3, 4


def start(
    workload: Workload,
    out: Path,
    log: Path,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> int:
    """The workload in a forked child; its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = BROKEN
    try:
        from vectomy.core.errors import VectomyError

        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                before()
                workload.run(out)
                after()
                status = WELL
            except VectomyError as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                status = REFUSED
            except BaseException:  # noqa: BLE001 (a forked child must not continue in the parent's code)
                traceback.print_exc()
                file.flush()
    finally:
        os._exit(status)


def wait(pid: int) -> int | None:
    """The exit status; None for a child that was killed."""
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def shift_clock(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() + seconds  # type: ignore[assignment]


@dataclass
class Round:
    """One round: where it works, what it counts, and what was wrong."""

    workload: Workload
    area: Path
    rng: random.Random
    causes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        # The Hub keeps what it has; a repository is named after the round.
        return self.area / ("out" if self.workload.on_disk else f"r{self.rng.getrandbits(40):x}")

    def check_end(self, status: int | None, cause: str) -> None:
        if status == BROKEN:
            last = (self.area / "log").read_text().strip().splitlines() or ["no message"]
            self.wrong.append(f"{cause}: {last[-1][:300]}")

    def kill(self, out: Path, log: Path, before: Callable[[], object] = lambda: None) -> bool:
        """Start the workload and kill it; whether it was at work still."""
        workload, rng = self.workload, self.rng
        if rng.random() < 0.5 or not workload.calls:
            cause = "at a random time"
            pid = start(workload, out, log, before)
            time.sleep(rng.uniform(0, 1.1) * workload.seconds)
            os.kill(pid, signal.SIGKILL)
            status = wait(pid)
        else:
            call, after = rng.choice(sorted(workload.calls)), rng.random() < 0.5
            number = rng.randint(1, workload.calls[call])
            cause = f"{'after' if after else 'before'} {call}"

            def prepare() -> None:
                before()
                die_in(call, number, after)

            status = wait(start(workload, out, log, prepare))
        self.check_end(status, f"killed {cause}")
        if status is None:
            self.causes[f"kill {cause}"] += 1
        return status is None

    def finish(self, out: Path, before: Callable[[], object] = lambda: None) -> None:
        """Let the same command end, and compare."""
        workload, log = self.workload, self.area / "log"
        done = workload.on_disk and workload.name == "bake" and out.exists() and any(out.iterdir())
        status = 0 if done else wait(start(workload, out, log, before))
        if status != WELL:
            last = log.read_text().strip().splitlines() or ["no message"]
            self.wrong.append(f"the same command then ended with {status}: {last[-1][:300]}")
            return
        found = workload.read(out)
        for name, digest in workload.whole.items():
            if found.get(name) != digest:
                self.wrong.append(f"{name} {'has other bytes' if name in found else 'is missing'}")
        half = {
            path.name
            for path in (self.area.rglob("*") if workload.on_disk else ())
            if path.name.endswith((".partial", ".baking", ".journal"))
        }
        half |= {path.name for path in out.parent.iterdir()} - {"out", "log", "log-2"}
        if half:
            self.wrong.append(f"left half: {sorted(half)}")

    def two(self, out: Path) -> None:
        logs = [self.area / "log", self.area / "log-2"]
        first = start(self.workload, out, logs[0])
        time.sleep(self.rng.uniform(0, 0.5) * self.workload.seconds * self.rng.randint(0, 1))
        second = start(self.workload, out, logs[1])
        ends = [wait(first), wait(second)]
        self.causes["two at once"] += 1
        for log, status in zip(logs, ends, strict=True):
            if status == BROKEN:
                last = log.read_text().strip().splitlines() or ["no message"]
                self.wrong.append(f"two at once: {last[-1][:300]}")
        if WELL not in ends and self.workload.on_disk:
            self.wrong.append(f"two at once: neither ended well ({ends})")

    def fill(self) -> None:
        """On a disk that is full at a random byte, and larger for the second call."""
        disk = self.area / "disk"
        disk.mkdir()
        # Pages of 4 kB; a mount with less than some is none.
        size = max(1 << 14, int(self.rng.uniform(0.01, 1.0) * self.workload.size))
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
        try:
            status = wait(start(self.workload, disk / "out", self.area / "log"))
            self.check_end(status, "disk full")
            if status == REFUSED:
                self.causes[f"disk full ({(self.area / 'log').read_text().split(':')[0][-30:]})"] += 1
            elif status == WELL:
                self.causes["disk was large enough"] += 1
            larger = f"remount,size={8 * self.workload.size + (1 << 26)}"
            subprocess.run(["mount", "-o", larger, str(disk)], check=True)
            self.finish(disk / "out")
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def jump(self, out: Path) -> None:
        """Kill, set all times to others, and continue with another clock."""
        self.kill(out, self.area / "log", partial(shift_clock, self.rng.uniform(-YEARS, YEARS)))
        for path in [out, *out.rglob("*")] if out.exists() else []:
            moment = time.time() + self.rng.uniform(-YEARS, YEARS)
            os.utime(path, (moment, moment))
        self.causes["clock and times jumped"] += 1
        self.finish(out, partial(shift_clock, self.rng.uniform(-YEARS, YEARS)))


def interrupt(workload: Workload, area: Path, fault: str, rng: random.Random) -> Round:
    area.mkdir()
    one = Round(workload, area, rng)
    before, out = digest_inputs(workload), one.out
    try:
        if fault == "full":
            one.fill()
        elif fault == "clock":
            one.jump(out)
        else:
            if fault == "two":
                one.two(out)
            else:
                for _ in range(rng.randint(1, 4)):
                    if not one.kill(out, area / "log"):
                        break
            one.finish(out)
    finally:
        shutil.rmtree(area)
    if digest_inputs(workload) != before:
        one.wrong.append("an input was changed")
    return one


def run_round(workload: Workload, seed: int, number: int, area: Path) -> tuple[str, Round]:
    """The fault that a round brings about, and how it went."""
    rng = random.Random(f"{seed} {workload.name} {number}")
    fault = rng.choice([item for item in FAULTS if workload.on_disk or item not in ("full", "clock")])
    return fault, interrupt(workload, area, fault, rng)


def measure_undisturbed(workload: Workload, area: Path) -> None:
    """Two undisturbed runs: seconds, size, and the files whose bytes agree."""
    found = []
    if workload.on_disk and workload.name != "bake":
        # In this process, so that the children find imported what is imported late.
        workload.run(area / "first")
    for place in ("calm-1", "calm-2"):
        began = time.monotonic()
        out = area / place
        area.mkdir(exist_ok=True, parents=True)
        counts: Counter[str] = Counter()
        reading, writing = os.pipe()

        def tell(counts: Counter[str] = counts, writing: int = writing) -> None:
            os.write(writing, json.dumps(counts).encode())

        count = partial(count_calls, CALLS, counts)

        status = wait(start(workload, out, area / "log", count, tell))
        os.close(writing)
        workload.calls = json.loads(os.read(reading, 1 << 16) or b"{}")
        os.close(reading)
        if status != WELL:
            raise SystemExit(
                f"{workload.name}: undisturbed it ended with {status}: {(area / 'log').read_text()}"
            )
        workload.seconds = time.monotonic() - began
        found.append(workload.read(out))
    workload.whole = {name: value for name, value in found[0].items() if found[1].get(name) == value}
    missing = set(workload.wanted) - workload.whole.keys()
    if missing:
        raise SystemExit(f"{workload.name}: two undisturbed runs differ in {sorted(missing)}")
    if workload.on_disk:
        workload.size = sum(path.stat().st_size for path in (area / "calm-1").rglob("*") if path.is_file())
    shutil.rmtree(area)
