"""Interrupt every command that leaves something behind, in every way a machine can, and compare
what the same command then makes of it with an undisturbed run.

    python benchmarks/interruptions.py [--rounds 400] [--only run,bake] [--minutes 30] [--json FILE]

A round interrupts a workload (run, trait, evaluate, heal, bake or push, on tiny models) and lets
the same command end:

    kill      SIGKILL one to four times, resumes included: after a random time, or right before or
              after a random one of the calls that write
    full      the disk (a tmpfs of its own; takes root) is full at a random byte, and larger later
    clock     SIGKILL, then the clock and the times of all files jump by up to ten years
    two       the same command twice at once on one folder

Every file whose bytes two undisturbed runs agree on must have these bytes, nothing half may be
left, inputs must be as they were, and an interrupted command must end well or in a VectomyError.
The JSON file is written after each round, and the next call continues from it, with the
rounds that were wrong first. Children are forked,
so that a kill costs no import.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from deadly_calls import count_calls, die_in
from hub_server import TOKEN, Hub, running

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


@dataclass
class Workload:
    """A command, the folder that it writes, and how its result is read."""

    name: str
    run: Callable[[Path], object]
    read: Callable[[Path], dict[str, str]]
    wanted: tuple[str, ...]
    """Files that two undisturbed runs must agree on."""
    inputs: tuple[Path, ...] = ()
    on_disk: bool = True
    """It writes to a folder (else to the Hub)."""
    seconds: float = 0.0
    whole: dict[str, str] = field(default_factory=dict)
    """Digests by file that two undisturbed runs agree on."""
    size: int = 0
    """Bytes of an undisturbed run's folder."""
    calls: dict[str, int] = field(default_factory=dict)
    """How often an undisturbed run makes each of CALLS, without those that it never makes."""


def digest_folder(out: Path) -> dict[str, str]:
    """Hash of each file; of an evaluation without its seconds."""
    result = {}
    for path in sorted(out.rglob("*")):
        # A stage's record and a cached measurement hold their seconds.
        if path.is_file() and path.parent.name not in ("stages", "cache"):
            data = path.read_bytes()
            if path.name == "evaluation.json":
                value = json.loads(data)
                value.pop("seconds", None)
                data = json.dumps(value, sort_keys=True).encode()
            result[path.relative_to(out).as_posix()] = hashlib.sha256(data).hexdigest()
    return result


def digest_inputs(workload: Workload) -> dict[str, str]:
    return {
        f"{path}/{name}": value for path in workload.inputs for name, value in digest_folder(path).items()
    }


# Children


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


def repeat_wrong(record: dict[str, Any], workload: Workload, seed: int, area: Path) -> None:
    """Run the rounds again that went wrong; what is right now is no longer listed."""
    row = record.get(workload.name, {"wrong": []})
    for number in sorted({int(text.split()[1].rstrip(",")) for text in row["wrong"]}):
        _, one = run_round(workload, seed, number, area)
        if not one.wrong:
            row["wrong"] = [text for text in row["wrong"] if not text.startswith(f"round {number},")]


# Workloads


def build_bake_bases(path: Path) -> tuple[Path, ...]:
    """Plain, experts, quantised, tied in one file, and tied in several."""
    from hostile.weight_bases import build_bases
    from tiny import build, unit

    from vectomy.edits.edit import Edit

    build_bases(path)
    bases = sorted(path.iterdir())
    folder = build(path / "tied" / "in", "mistral", tied=True, sharded=True).folder
    Edit.ablation(folder, unit()).save(path / "tied" / "edit.safetensors")
    return (*bases, path / "tied")


def build_workloads(hub: Hub, root: Path) -> list[Workload]:
    import healed
    import tiny_chat
    import tiny_evaluation
    import tiny_style
    from published import finished
    from tiny import orthonormal

    import vectomy
    from vectomy.core.evaluation_config import parse_evaluation
    from vectomy.data.trait_file import load_trait
    from vectomy.edits.edit import Edit
    from vectomy.healing.heal_config import parse_heal
    from vectomy.workflows.evaluate.evaluation import evaluate_models
    from vectomy.workflows.heal.heal_model import heal_model
    from vectomy.workflows.run import run
    from vectomy.workflows.trait_config import make_trait_run

    chat = tiny_chat.folder()
    small = {"device": "cpu", "answer_tokens": 8, "n_search": 4, "n_test": 4, "steps": 6}
    run_options = {**tiny_chat.sources(), **small, "complete": True}

    def search(out: Path) -> None:
        run(str(chat), out, **run_options)

    places = tiny_evaluation.places()
    evaluation = parse_evaluation(
        {
            "subjects": [places["tiny"], f"{places['edit']}@0.5,1", places["baked"]],
            "prompts": [places["night"], places["day"]],
            **tiny_evaluation.QUICK,
        }
    )

    def evaluate(out: Path) -> None:
        evaluate_models(evaluation, out)

    day, night = tiny_chat.texts(tiny_chat.DAY), tiny_chat.texts(tiny_chat.NIGHT)
    files = {"prompts": day[:40], "negative_test": day[40:50], "positive_test": night[:10]}
    for name, texts in files.items():
        (root / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
    healing = parse_heal(
        {
            **healed.QUICK,
            **{name: str(root / f"{name}.json") for name in files},
            "preferences": "own",
            "own_tokens": 8,
            "answer_tokens": 8,
            "objective": "sft",
            "epochs": 2.0,
            "micro_batch": 4,
            "save_steps": 4,
        }
    )
    damage = Edit.ablation(chat, orthonormal(8), about={"behaviour": "refusal"})

    def heal(out: Path) -> None:
        heal_model(str(chat), out, healing, edit=damage)

    style, trait = tiny_style.folder(), load_trait(str(tiny_style.trait_file()))
    trait_options = {**small, "dtype": "float32", "n_fit": 24, "n_search": 6, "bake": True}

    def induce(out: Path) -> None:
        run(make_trait_run(str(style), trait, trait_options), out)

    result = [
        Workload(
            "run", search, digest_folder, ("edit.safetensors", "scores.json", "completions.jsonl"), (chat,)
        ),
        Workload("evaluate", evaluate, digest_folder, ("evaluation.json", "completions.jsonl"), (chat,)),
        Workload("heal", heal, digest_folder, ("checkpoint/model.safetensors", "completions.jsonl"), (chat,)),
        Workload("trait", induce, digest_folder, ("edit.safetensors", "completions.jsonl"), (style,)),
    ]
    for base in build_bake_bases(root / "bases"):
        edit = Edit.load(base / "edit.safetensors")
        bake = partial(lambda edit, base, out: vectomy.bake(edit, base / "in", out), edit, base)
        result.append(Workload("bake", bake, digest_folder, ("config.json",), (base,)))
    product = finished()

    def push(out: Path) -> None:
        vectomy.push(product, f"me/{out.name}")

    def in_hub(out: Path) -> dict[str, str]:
        stored: Mapping[str, bytes] = hub.files(f"me/{out.name}") if f"me/{out.name}" in hub.repos else {}
        return {name: hashlib.sha256(data).hexdigest() for name, data in stored.items()}

    result.append(Workload("push", push, in_hub, ("model.safetensors",), (product,), on_disk=False))
    return result


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


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vectomy-interruptions-") as folder:
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=400, help="Of all workloads together.")
    parser.add_argument("--only", default="", help="Names of workloads, with commas.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    record: dict[str, Any] = json.loads(given.json.read_text()) if given.json.exists() else {}
    deadline = time.monotonic() + 60 * given.minutes
    with running() as hub, scratch() as root:
        os.environ.update(
            HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1", HF_HOME=str(root / "home")
        )
        os.environ.pop("HF_HUB_OFFLINE", None)
        import torch

        torch.set_num_threads(1)
        only = set(given.only.split(",")) if given.only else None
        workloads = [w for w in build_workloads(hub, root) if only is None or w.name in only]
        for index, workload in enumerate(workloads):
            measure_undisturbed(workload, root / f"calm-{index}")
            print(f"{workload.name}: {workload.seconds:.1f} s, {len(workload.whole)} files", flush=True)
        for workload in workloads:
            if workload.name != "bake":
                repeat_wrong(record, workload, given.seed, root / "round")
        while sum(row["rounds"] for row in record.values()) < given.rounds and time.monotonic() < deadline:
            # The workload that has had least of the time so far.
            workload = min(
                workloads, key=lambda item: record.get(item.name, {}).get("rounds", 0) * item.seconds
            )
            if workload.name == "bake":
                workload = random.choice([item for item in workloads if item.name == "bake"])
            row = record.setdefault(workload.name, {"rounds": 0, "kills": 0, "causes": {}, "wrong": []})
            fault, one = run_round(workload, given.seed, row["rounds"], root / "round")
            row["rounds"] += 1
            row["kills"] += sum(n for cause, n in one.causes.items() if cause.startswith("kill"))
            for cause, count in one.causes.items():
                row["causes"][cause] = row["causes"].get(cause, 0) + count
            row["wrong"] += [f"round {row['rounds'] - 1}, {fault}: {text}" for text in one.wrong]
            if one.wrong:
                print(
                    f"{workload.name} round {row['rounds'] - 1} ({fault}):",
                    *one.wrong,
                    sep="\n  ",
                    flush=True,
                )
            given.json.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    for name, row in sorted(record.items()):
        print(f"{name}: {row['rounds']} rounds, {row['kills']} kills, {len(row['wrong'])} wrong")
    raise SystemExit(1 if any(row["wrong"] for row in record.values()) else 0)


if __name__ == "__main__":
    main()
