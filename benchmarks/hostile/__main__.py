"""python benchmarks/hostile [--cases 100000] [--seed 0] [--kinds NAME ...] [--json FILE]

Continues from the case where the file of results ends, so that a run may be cut off at any time;
cases that failed are run again first.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "tests" / "helpers")]

from hostile.runner import main  # noqa: E402

if __name__ == "__main__":
    main(HERE.parent / "hostile.json")
