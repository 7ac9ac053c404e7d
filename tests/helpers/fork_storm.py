"""Runs of the pipeline in forked children that are killed: `python fork_storm.py MODEL FOLDER
OPTIONS MOMENTS`.

Importing torch and transformers takes seconds and a tiny run a fraction of one, so one process
imports and its children run. A moment is the number of stages that are finished and a share of the
time that the next stage takes in an undisturbed run. For each moment a child runs into a folder of
its own and is killed with SIGKILL then; then a second child, left alone, runs the same. Prints what
happened as JSON.
"""

import json
import os
import signal
import sys
import time
import traceback
from itertools import pairwise
from pathlib import Path

import torch

torch.set_num_threads(1)
# Seconds between two looks at the folder of a child.
LOOK = 0.001

from vectomy.workflows.run import run  # noqa: E402


def child(model: str, out: Path, options: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        run(model, out, **options)
        status = 0
    except BaseException:  # noqa: BLE001 (a forked child must not go on into the parent's code)
        traceback.print_exc()
    finally:
        os._exit(status)


def finished_stages(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "stages").glob("*.json"))


def ended(pid: int) -> int | None:
    """Exit status of a child that has ended, None while it runs."""
    waited, status = os.waitpid(pid, os.WNOHANG)
    return status if waited else None


def finish(model: str, out: Path, options: dict) -> list[float]:
    """Seconds of each stage of a run that is left alone, in order; it must end well.

    What follows the last stage is the last item.
    """
    ends = [time.monotonic()]
    pid = child(model, out, options)
    while (status := ended(pid)) is None:
        ends += [time.monotonic()] * (len(finished_stages(out)) + 1 - len(ends))
        time.sleep(LOOK)
    if status:
        raise SystemExit(f"the run into {out} ended with {status}")
    # The records that a look missed, and the end.
    ends += [time.monotonic()] * (len(finished_stages(out)) + 2 - len(ends))
    return [after - before for before, after in pairwise(ends)]


def killed(model: str, out: Path, options: dict, depth: int, pause: float) -> dict:
    """Kill a child `pause` seconds after it has finished `depth` stages."""
    pid = child(model, out, options)
    while (status := ended(pid)) is None and len(finished_stages(out)) < depth:
        time.sleep(LOOK)
    if status is None:
        time.sleep(pause)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return {
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "stages": finished_stages(out),
    }


def main(model: str, folder: Path, options: dict, moments: list[tuple[int, float]]) -> None:
    # Here, so that the children find imported what is imported late.
    run(model, folder / "first", **options)
    runs = [finish(model, folder / f"undisturbed-{index}", options) for index in range(2)]
    # The shorter time of a stage: a kill that comes after the end of the run is none.
    seconds = [min(times) for times in zip(*runs, strict=True)]
    events = []
    for index, (depth, share) in enumerate(moments):
        out = folder / f"killed-{index}"
        events.append(killed(model, out, options, depth, share * seconds[depth]))
        finish(model, out, options)
    often = folder / "killed-often"
    for depth, share in sorted(moments)[::3]:
        killed(model, often, options, depth, share * seconds[depth])
    finish(model, often, options)
    json.dump({"seconds": seconds, "events": events}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
