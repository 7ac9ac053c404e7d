"""One process of a training: `accelerate launch ... -m vectomy.healing JOB`. `vectomy heal
--launch` runs it; on a cluster with its own launcher, call it directly.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vectomy.core.errors import VectomyError
from vectomy.core.progress import duration
from vectomy.core.remaining_time import RemainingTime
from vectomy.healing.job import Job
from vectomy.healing.training import train

SECONDS = 30.0


@contextmanager
def _report_lines(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Progress as a line every SECONDS: several processes share one terminal, or have none."""
    remaining, last = RemainingTime(total), time.monotonic()

    def update(count: int) -> None:
        nonlocal last
        remaining.add(count)
        if time.monotonic() - last > SECONDS or remaining.done == total:
            last, left = time.monotonic(), remaining.seconds
            rest = f", some {duration(left)} more" if left else ""
            sys.stderr.write(f"{what}: {remaining.done} of {total} {unit}{rest}\n")

    yield update


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "job.json").is_file():
        sys.exit(
            "usage: accelerate launch [OPTIONS] -m vectomy.healing JOB\n"
            "JOB is the folder `training` that `vectomy heal` wrote"
        )
    try:
        train(Job(Path(sys.argv[1])), _report_lines)
    except VectomyError as error:
        sys.exit(f"vectomy: {error}")
