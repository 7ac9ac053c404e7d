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
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from hub_server import TOKEN, running
from interrupted_rounds import measure_undisturbed, run_round
from interrupted_workloads import Workload, build_workloads


def repeat_wrong(record: dict[str, Any], workload: Workload, seed: int, area: Path) -> None:
    """Run the rounds again that went wrong; what is right now is no longer listed."""
    row = record.get(workload.name, {"wrong": []})
    for number in sorted({int(text.split()[1].rstrip(",")) for text in row["wrong"]}):
        _, one = run_round(workload, seed, number, area)
        if not one.wrong:
            row["wrong"] = [text for text in row["wrong"] if not text.startswith(f"round {number},")]


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
