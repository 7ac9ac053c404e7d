"""One process of a training: `accelerate launch ... -m vectomy.heal JOB`. `vectomy heal --launch` runs it, and can be left out where
a cluster launches by its own means."""

from __future__ import annotations

import sys
from pathlib import Path

from vectomy.errors import VectomyError
from vectomy.heal.training import Job, train

if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "job.json").is_file():
        sys.exit(
            "usage: accelerate launch [OPTIONS] -m vectomy.heal JOB, the folder `training` that `vectomy heal` wrote"
        )
    try:
        train(Job(Path(sys.argv[1])))
    except VectomyError as error:
        sys.exit(f"vectomy: {error}")
