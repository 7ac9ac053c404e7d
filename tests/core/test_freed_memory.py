"""What is freed below something that lives is returned to the system."""

from __future__ import annotations

import sys

import psutil
import pytest

from vectomy.core.freed_memory import return_freed_memory

TIER = "unit"
MIB = 1 << 20


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap alone keeps freed pages")
def test_freed_blocks_between_living_ones_are_returned() -> None:
    blocks = [b"x" * (64 << 10) for _ in range(2048)]
    full = resident()
    # Every hundredth lives on, so that no heap ends where the freed ones begin.
    blocks = blocks[::100]
    return_freed_memory()
    assert full - resident() > 96 * MIB
    assert len(blocks) == 21


def test_cycles_are_freed() -> None:
    class Node:
        alive = 0

        def __init__(self) -> None:
            Node.alive += 1
            self.itself = self

        def __del__(self) -> None:
            Node.alive -= 1

    Node()
    return_freed_memory()
    assert Node.alive == 0
