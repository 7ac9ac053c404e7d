"""Runs of the pipeline in forked children that are killed: `python fork_storm.py MODEL FOLDER
OPTIONS DELAYS`.

Importing torch and transformers takes seconds and a tiny run a fraction of one, so one process
imports and its children run. For each delay (a share of an undisturbed run's time) a child runs
into a folder of its own and is killed with SIGKILL after it; then a second child, left alone, runs
the same. Prints what happened as JSON.
"""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

torch.set_num_threads(1)
# How often a kill that came too late is tried again.
AGAIN = 2

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


def finish(model: str, out: Path, options: dict) -> float:
    """Seconds of a run that is left alone; it must end well."""
    began = time.monotonic()
    _, status = os.waitpid(child(model, out, options), 0)
    if status:
        raise SystemExit(f"the run into {out} ended with {status}")
    return time.monotonic() - began


def killed(model: str, out: Path, options: dict, delay: float) -> dict:
    pid = child(model, out, options)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return {
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "stages": sorted(path.stem for path in (out / "stages").glob("*.json")),
    }


def main(model: str, folder: Path, options: dict, shares: list[float]) -> None:
    # Here, so that the children find imported what is imported late.
    run(model, folder / "first", **options)
    seconds = min(finish(model, folder / f"undisturbed-{at}", options) for at in range(2))
    events = []
    for at, share in enumerate(shares):
        out = folder / f"killed-{at}"
        events.append(killed(model, out, options, share * seconds))
        # On a machine that grows quieter meanwhile a run ends before its moment: the same moment of
        # the shorter run, then.
        for _ in range(AGAIN):
            if events[-1]["killed"]:
                break
            shutil.rmtree(out)
            seconds = min(seconds, finish(model, out, options))
            shutil.rmtree(out)
            events[-1] = killed(model, out, options, share * seconds)
        finish(model, out, options)
    often = folder / "killed-often"
    for share in shares[::3]:
        killed(model, often, options, share * seconds)
    finish(model, often, options)
    json.dump({"seconds": seconds, "events": events}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
