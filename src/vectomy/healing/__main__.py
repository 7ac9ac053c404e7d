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
from vectomy.healing.job import Job
from vectomy.healing.training import train

SECONDS = 30.0


@contextmanager
def _report_lines(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Progress as a line every SECONDS: several processes share one terminal, or have none."""
    done, last = 0, time.monotonic()

    def update(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last > SECONDS or done == total:
            last = time.monotonic()
            sys.stderr.write(f"{what}: {done} of {total} {unit}\n")

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
