"""The processes of `accelerate launch` or `torchrun`, joined by accelerate.

What they exchange (tokens, statistics, a few gradients) lies in main memory, so it travels by gloo
on machines with cards, too. A process that ends closes its connections, which gloo reports to the
others as an error at once; NCCL would wait, and then abort.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch

from vectomy.core.errors import RankError
from vectomy.core.quoted_error import quote_error
from vectomy.core.ranks import Ranks, current_ranks, is_launched, set_ranks
from vectomy.core.run_folder import hash_of

__all__ = ["join_ranks"]

Value = TypeVar("Value")
# Ranks wait this long for rank 0, which may be writing a checkpoint of hundreds of GB. A process
# that ends is noticed at once.
LONGEST_WAIT = timedelta(hours=4)
# Seconds for which rank 0 stays after an error.
LINGER = 0.5
# On machines with cards, tensor parallelism of transformers finds its backend here, too.
BACKENDS = "cpu:gloo,cuda:nccl"
LOST = (
    "another process of this job has ended, so all do; finished work is kept, and the same command resumes "
    "from there"
)


@dataclass(frozen=True)
class LaunchedRanks(Ranks):
    """A process of a launcher."""

    def gather(self, value: Value) -> list[Value]:
        from torch import distributed

        values: list[Any] = [None] * self.count
        _exchange(lambda: distributed.all_gather_object(values, value))
        return values

    def broadcast(self, value: Value) -> Value:
        from torch import distributed

        values = [value if self.is_first else None]
        _exchange(lambda: distributed.broadcast_object_list(values, src=0))
        return values[0]  # type: ignore[return-value]

    def claim(self, message: str) -> bool:
        from torch.distributed.distributed_c10d import _get_default_store

        # That another process has ended is said only if that one said nothing.
        counted = ("said", f"said {hash_of(message)}")
        try:
            store = _get_default_store()
            if message == LOST and int(store.add(counted[0], 0)):
                return False
            first = [int(store.add(key, 1)) for key in counted][1] == 1
        except (RuntimeError, ValueError):
            return True
        if self.is_first:
            # The others may ask the store, which lies in this process under some launchers.
            time.sleep(LINGER)
        return first


def join_ranks(device: str, tensor_parallel: bool = False) -> Ranks:
    """The ranks of this job; of one rank where no launcher started this process. The first call
    waits for the others. From then on `current_ranks` returns them.

    Args:
        device: that the job asks for: auto, cpu, cuda, ...
        tensor_parallel: whether the processes hold parts of one model, instead of a model each.

    Raises:
        RankError: the others do not come, or nothing started any for `tensor_parallel`.
    """
    if tensor_parallel and not is_launched():
        raise RankError(
            "--tensor-parallel divides the model over several processes: start it with accelerate launch or "
            "torchrun, one process a card"
        )
    if not is_launched() or current_ranks().count > 1:
        return current_ranks()
    from accelerate import PartialState

    cards = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    # Two processes on one card are allowed, if the card is named (cuda:0).
    enough = cards >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        state = (
            PartialState(backend=BACKENDS, timeout=LONGEST_WAIT)
            if enough
            else PartialState(cpu=True, timeout=LONGEST_WAIT)
        )
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"the {os.environ['WORLD_SIZE']} processes of this job do not find each other at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({quote_error(error)}); "
            "check the address, the port and the firewall"
        ) from error
    atexit.register(state.destroy_process_group)
    if threading.current_thread() is threading.main_thread():
        # A launcher ends the other processes of a job with this signal.
        signal.signal(signal.SIGTERM, _end)
    ranks = LaunchedRanks(
        state.process_index,
        state.num_processes,
        state.local_process_index if enough else None,
        tensor_parallel,
    )
    set_ranks(ranks)
    return ranks


def _exchange(step: Callable[[], object]) -> None:
    """Raises RankError where another process is gone."""
    try:
        step()
    except RuntimeError as error:
        raise RankError(LOST) from error


def _end(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise RankError(LOST)
