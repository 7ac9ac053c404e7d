"""How many threads compute, and how they wait for each other. Loads no torch.

torch's wheels compute on OpenMP threads. By default a thread that waits for the others spins for
milliseconds: free on a quiet machine, but with other work on the cores the spinning takes the time
that the thread it waits for needs (docs/log/portable.md: 3 times the processor time). Here it spins
for microseconds, the usual gap between two sums, and sleeps after. OpenMP reads its variables when
torch is loaded, so that they are set before.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Literal

__all__ = ["Threads", "available_cores", "prepare_threads", "use_threads"]

Threads = int | Literal["auto"]
"""Threads that compute; auto: one a core that this process may use."""

# What a person sets to choose the waiting; GNU's OpenMP is in torch's wheels for Linux, Intel's or
# LLVM's in those for Windows and macOS.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
# 1000 turns, some 20 microseconds; and milliseconds, of which no fraction is understood everywhere.
SPINNING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def prepare_threads() -> None:
    """Let threads soon sleep while they wait, and use no more than the container's share of the
    cores. What the user's environment says stays. Without effect once torch is loaded.
    """
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in WAITING):
        os.environ.update(SPINNING)
    if not any(name in os.environ for name in COUNTS) and available_cores() < (os.cpu_count() or 1):
        os.environ["OMP_NUM_THREADS"] = str(available_cores())


def use_threads(threads: Threads) -> None:
    """Compute on so many threads from now on, and in processes that are started; auto changes
    nothing.
    """
    if threads == "auto":
        return
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # Not imported: torch takes seconds, and reads the variable when it is loaded.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def available_cores(quota: Path = QUOTA) -> int:
    """The cores that this process may use: by its affinity, and by the quota of its container.

    Args:
        quota: the file of cgroups (version 2) that holds microseconds and their period, or `max`.
    """
    import psutil

    process = psutil.Process()
    # macOS has no affinity.
    cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1
    try:
        limit, _, period = quota.read_text(encoding="ascii").partition(" ")
        return max(1, min(cores, math.ceil(int(limit) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        return cores
