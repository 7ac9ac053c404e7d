"""The processes that share one job (`accelerate launch`, `torchrun`): which of them this is, and
what they exchange. Loads no torch.

All ranks run the same code on the same inputs. Work that takes long is a list: each rank does its
`share` of it, `gather` and `merge` bring the results together, and all ranks continue with the same
ones. A file is written by rank 0 alone (`on_first`), whose answer to "what is done already?" counts
for all. One process is a job of one rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from vectomy.core.errors import VectomyError

__all__ = ["LAUNCHED", "Ranks", "apart", "current_ranks", "is_launched", "may_say", "set_ranks", "use_ranks"]

Item = TypeVar("Item")
Key = TypeVar("Key")
Result = TypeVar("Result")

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that a launcher sets for each of its processes."""


@dataclass(frozen=True)
class Ranks:
    """One process that works alone.

    Attributes:
        rank: the number of this process.
        count: the number of processes.
        card: the index of the card that this process may use; absent: any.
        lockstep: the processes hold parts of one model, so that all of them make every pass; each
            list is the share of everyone.
    """

    rank: int = 0
    count: int = 1
    card: int | None = None
    lockstep: bool = False

    def gather(self, value: Result) -> list[Result]:
        """The values of all ranks, in their order. Every rank has to call it."""
        return [value]

    def broadcast(self, value: Result) -> Result:
        """The value of rank 0. Every rank has to call it."""
        return value

    def claim(self, message: str) -> bool:
        """Whether this is the first rank that says the message to a person."""
        return True

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Iterable[Item]) -> list[Item]:
        """The items of this rank: every `count`th, so that all ranks get large and small ones."""
        if self.lockstep:
            return list(items)
        return list(islice(items, self.rank, None, self.count))

    def merge(self, part: Mapping[Key, Result]) -> dict[Key, Result]:
        """The entries of all ranks."""
        if self.lockstep:
            return dict(part)
        return {key: value for other in self.gather(part) for key, value in other.items()}

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The results of `work`, in the order of the items. Each rank does its share.

        Raises:
            VectomyError: of the first item that failed, on all ranks.
        """
        if self.count == 1 or self.lockstep:
            return [work(item) for item in items]
        part: dict[int, Result | VectomyError] = {}
        for index, item in self.share(enumerate(items)):
            try:
                part[index] = work(item)
            except VectomyError as error:
                part[index] = error
                break
        results = self.merge(part)
        for index in sorted(results):
            if isinstance(failure := results[index], VectomyError):
                raise failure
        return [results[index] for index in range(len(items))]  # type: ignore[misc]

    def on_first(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which rank 0 runs while the others wait.

        Raises:
            VectomyError: of `work`, on all ranks.
        """
        if self.count == 1:
            return work()
        result: Result | VectomyError | None = None
        if self.is_first:
            with apart():
                try:
                    result = work()
                except VectomyError as error:
                    result = error
        result = self.broadcast(result)
        if isinstance(result, VectomyError):
            raise result
        return result  # type: ignore[return-value]


_CURRENT: ContextVar[Ranks] = ContextVar("ranks")
_ALONE = Ranks()


def current_ranks() -> Ranks:
    """The ranks of this process; of one rank, unless `join_ranks` (models) found others."""
    return _CURRENT.get(_ALONE)


def set_ranks(ranks: Ranks) -> None:
    """From now on, this process works with others."""
    _CURRENT.set(ranks)


@contextmanager
def use_ranks(ranks: Ranks) -> Iterator[None]:
    token = _CURRENT.set(ranks)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def apart() -> Iterator[None]:
    """A context in which this process works alone, whatever the others do."""
    with use_ranks(Ranks(card=current_ranks().card)):
        yield


def may_say(message: str) -> bool:
    """Whether this process prints the sentence that ends it: all ranks may end with the same."""
    if current_ranks().count == 1 and is_launched():
        # It ended before it met the others, as they all did.
        return os.environ["RANK"] == "0"
    return current_ranks().claim(message)


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return all(name in os.environ for name in LAUNCHED) and os.environ["WORLD_SIZE"] != "1"
