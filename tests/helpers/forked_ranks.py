"""Several processes over gloo, as a launcher starts them, forked from the tests: the imports of one
serve all.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import torch


@dataclass
class ForkedRank:
    """A process at work. `stdout` and `stderr` are what it printed, `result` what its work
    returned, `status` its exit status (negative: the signal that ended it).
    """

    pid: int
    file: Path
    status: int | None = None
    result: Any = None
    stdout: str = ""
    stderr: str = ""

    def join(self) -> ForkedRank:
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self.file.exists():
            self.result, self.stdout, self.stderr = torch.load(self.file, weights_only=False)
        return self


def fork_ranks(path: Path, count: int, work: Callable[[int], Any]) -> list[ForkedRank]:
    """Start `work(rank)` in `count` processes, which find each other. Results go through `path`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ranks = []
    for rank in range(count):
        file = path / f"rank-{count}-{rank}-{port}"
        pid = os.fork()
        if not pid:
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": rank, "RANK": rank}
            shared |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": 1}
            os.environ.update({name: str(value) for name, value in shared.items()})
            _work_and_exit(file, work, rank)
        ranks.append(ForkedRank(pid, file))
    return ranks


def run_ranks(path: Path, count: int, work: Callable[[int], Any]) -> list[ForkedRank]:
    return [rank.join() for rank in fork_ranks(path, count, work)]


def results_of(ranks: Sequence[ForkedRank]) -> list[Any]:
    """What each rank returned; all must have ended well."""
    assert not [rank.stderr for rank in ranks if rank.status], "".join(rank.stderr for rank in ranks)
    return [rank.result for rank in ranks]


def _work_and_exit(file: Path, work: Callable[[int], Any], rank: int) -> None:
    from accelerate import PartialState

    # Signatures were checked in the one process that these are compared with.
    jaxtyping.config.update("jaxtyping_disable", True)
    # Another test may have trained in this process.
    PartialState._reset_state()
    status, result = 0, None
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            result = work(rank)
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException:  # noqa: BLE001 (the process ends here)
            traceback.print_exc(file=sys.stderr)
            status = 99
    torch.save((result, out.getvalue(), err.getvalue()), file)
    os._exit(status)
