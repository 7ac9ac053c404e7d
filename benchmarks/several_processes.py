"""What several processes bring on this machine: seconds and results of the same run in one process
and in several.

    python benchmarks/several_processes.py [--model demo] [--counts 1 2] [-- OPTIONS OF RUN]

One thread a process. On a machine with few cores the processes take each other's time, and loading
the model N times costs N times as much: only equal bytes can be shown there.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vectomy.core.run_folder import read_json, sha256_file

COMPARED = ("edit.safetensors", "scores.json", "evaluation.json", "completions.jsonl")


def launch(count: int, arguments: list[str]) -> tuple[float, float]:
    """Run vectomy in `count` processes. Returns seconds of the clock and of the processors."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    )
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, *launcher, "-m", "vectomy", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, used


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--recipe", default="gradient")
    parser.add_argument("options", nargs="*", help="further options of vectomy run, behind --")
    given = parser.parse_args()
    first: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in given.counts:
            out = Path(folder, str(count))
            arguments = ["run", given.model, "--recipe", given.recipe, "--out", str(out), "--yes"]
            clock, used = launch(count, [*arguments, "--threads", "1", *given.options])
            digests = [sha256_file(out / name) for name in COMPARED]
            first = first or digests
            stages = read_json(out / "summary.json")["stages"]
            same = sum(own == other for own, other in zip(digests, first, strict=True))
            text = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items())
            print(
                f"{count} processes: {clock:.1f} s, {used:.1f} s of processor time; "
                f"{same} of {len(COMPARED)} files as with {given.counts[0]}; stages: {text}",
                flush=True,
            )


if __name__ == "__main__":
    main()
