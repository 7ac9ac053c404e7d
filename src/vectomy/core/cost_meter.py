"""What a piece of work takes: its seconds, and the most memory while it runs. Loads no torch."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from vectomy.core.results.result_parts import StageCost

__all__ = ["CostMeter", "Resident", "highest_cost"]

# Seconds between two looks at the resident memory. Child processes are listed more rarely, since
# that reads the table of all processes.
INTERVAL, CHILDREN = 0.05, 2.0
STATUS = Path("/proc/self/status")
HIGH_WATER = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)


class Resident:
    """The resident memory of this process and its children, in bytes. Pages of files that are
    mapped (weights that are being read) count.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._children: list[psutil.Process] = []
        self._listed = float("-inf")

    def now(self) -> int:
        moment = time.monotonic()
        if moment - self._listed >= CHILDREN:
            self._children, self._listed = self._process.children(recursive=True), moment
        return self._own() + sum(map(_resident, self._children))

    def lifetime_peak(self) -> int | None:
        """The most that this process alone has ever had; None where the system does not tell."""
        peak = getattr(self._process.memory_info(), "peak_wset", None)
        if peak is not None:
            return int(peak)
        try:
            match = HIGH_WATER.search(STATUS.read_text(encoding="ascii", errors="replace"))
        except OSError:
            return None
        return None if match is None else int(match[1]) << 10

    def _own(self) -> int:
        return int(self._process.memory_info().rss)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


class CostMeter:
    """A context that measures what runs in it; `cost` is there when it has ended.

    The host's memory is sampled twenty times a second, and a peak between two samples is found
    where it is the highest of the process so far. Of cards, PyTorch's own count of allocated bytes
    is taken, added up over all of them.
    """

    def __init__(
        self,
        resident: Resident | None = None,
        clock: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.process_time,
    ) -> None:
        self._memory, self._clock, self._processor = resident or Resident(), clock, processor
        self._ended = threading.Event()
        self._peak = self._on_cards = 0
        self.cost = StageCost()

    def __enter__(self) -> CostMeter:
        self._began, self._before = self._clock(), self._memory.lifetime_peak()
        self._used = self._processor()
        self._peak = self._memory.now()
        cards = _list_cards()
        # PyTorch has one peak, which this resets for the meters around this one, too.
        for meter in _RUNNING:
            meter._note_cards(cards)
        for card in cards:
            card.reset()
        _RUNNING.append(self)
        self._thread = threading.Thread(target=self._sample, name="vectomy-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds, used = self._clock() - self._began, self._processor() - self._used
        self._ended.set()
        self._thread.join()
        self._peak = max(self._peak, self._memory.now())
        after = self._memory.lifetime_peak()
        if after is not None and (self._before is None or after > self._before):
            self._peak = max(self._peak, after)
        _RUNNING.remove(self)
        self._note_cards(_list_cards())
        self.cost = StageCost(
            seconds=round(seconds, 3),
            processor_seconds=round(used, 3),
            peak_memory_bytes=self._peak,
            peak_device_bytes=self._on_cards or None,
        )

    def _note_cards(self, cards: Sequence[_CudaCard]) -> None:
        self._on_cards = max(self._on_cards, sum(card.peak() for card in cards))

    def _sample(self) -> None:
        while not self._ended.wait(INTERVAL):
            self._peak = max(self._peak, self._memory.now())


def highest_cost(first: StageCost, second: StageCost) -> StageCost:
    """The cost of two pieces, one behind the other: seconds add up, and the higher peak counts."""
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in StageCost.model_fields}
    known = {name: [value for value in pair if value is not None] for name, pair in pairs.items()}
    return StageCost(
        seconds=sum(known["seconds"]) if known["seconds"] else None,
        processor_seconds=sum(known["processor_seconds"]) if known["processor_seconds"] else None,
        peak_memory_bytes=max(known["peak_memory_bytes"], default=None),
        peak_device_bytes=max(known["peak_device_bytes"], default=None),
    )


class _CudaCard:
    """A card that this process uses."""

    def __init__(self, torch: Any, index: int) -> None:
        self._torch, self._index = torch, index

    def reset(self) -> None:
        self._torch.cuda.reset_peak_memory_stats(self._index)

    def peak(self) -> int:
        return int(self._torch.cuda.max_memory_allocated(self._index))


def _list_cards() -> list[_CudaCard]:
    """Empty where torch is not loaded, or no card is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    return [_CudaCard(torch, index) for index in range(torch.cuda.device_count())]


_RUNNING: list[CostMeter] = []
