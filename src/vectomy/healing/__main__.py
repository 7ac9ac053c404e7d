"""One process of a training: `accelerate launch ... -m vectomy.healing JOB`. `vectomy heal
--launch` runs it; where a cluster launches by means of its own, so can anybody.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vectomy.core.errors import VectomyError
from vectomy.healing.training import Job, train

SECONDS = 30.0


@contextmanager
def _lines(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """A line now and then: several processes share one terminal, or have none."""
    done, said = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        if time.monotonic() - said > SECONDS or done == total:
            said = time.monotonic()
            sys.stderr.write(f"{what}: {done} of {total} {unit}\n")

    yield advance


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "job.json").is_file():
        sys.exit(
            "usage: accelerate launch [OPTIONS] -m vectomy.healing JOB, the folder `training` that `vectomy heal` wrote"
        )
    try:
        train(Job(Path(sys.argv[1])), _lines)
    except VectomyError as error:
        sys.exit(f"vectomy: {error}")
