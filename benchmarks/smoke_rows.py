"""What gpu_smoke.py measures, as rows: each section is timed, and a failed one is a row."""

from __future__ import annotations

import gc
import json
import random
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vectomy.core.errors import VectomyError

GIB = 2**30
# What a section may raise: its row says so, and the next one runs.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    VectomyError,
)

Figures = dict[str, Any]


class Smoke:
    """The rows measured so far, and what the sections share."""

    def __init__(self, device: str, shape: str, vocabulary: int, seconds: float, only: list[str]) -> None:
        self.device, self.shape, self.seconds, self.only = device, shape, seconds, only
        self.cuda = device == "cuda"
        self.began = time.monotonic()
        self.folder = Path(tempfile.mkdtemp(prefix="gpu-smoke-"))
        self.big = self.folder / "big"
        self.vocabulary = vocabulary
        self.rows: list[Figures] = []

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def synchronise(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def peak(self) -> float | None:
        """GiB that PyTorch had in tensors at once since the section began; None on a CPU."""
        return round(torch.cuda.max_memory_allocated() / GIB, 2) if self.cuda else None

    def clear(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of the second of two runs."""
        work()
        self.synchronise()
        began = time.monotonic()
        work()
        self.synchronise()
        return time.monotonic() - began

    def section(self, name: str, work: Callable[[], Figures | None], least: float = 0) -> None:
        """Run a section for which at least `least` seconds are left, and write its row."""
        if (self.only and name.split()[0] not in self.only) or self.left < least:
            self.rows.append({"name": name, "status": "skipped"})
            return
        self.clear()
        began, figures, status = time.monotonic(), {}, "ok"
        try:
            figures = work() or {}
        except FAULTS as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "vectomy" in f.filename]
            places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-2:]]
            status = f"FAILED {type(error).__name__}: {str(error)[:200]} at {', '.join(places)}"
        self.synchronise()
        seconds = round(time.monotonic() - began, 1)
        self.rows.append(
            {"name": name, "status": status, "seconds": seconds, **figures, "peak_gib": self.peak()}
        )
        print(f"[{time.monotonic() - self.began:5.0f}s] {json.dumps(self.rows[-1], default=str)}", flush=True)

    def words(self, count: int, seed: int, low: int = 8, high: int = 24) -> list[str]:
        """Prompts of random words, `low` to `high` of them each."""
        source = random.Random(seed)
        return [
            " ".join(
                f"w{source.randrange(200, self.vocabulary - 16)}" for _ in range(source.randint(low, high))
            )
            for _ in range(count)
        ]
