"""What a training will take, before it starts: steps, memory, and time from one forward pass that
was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vectomy.architecture import Architecture
from vectomy.core.progress import duration
from vectomy.healing.heal_config import HealConfig
from vectomy.healing.machine import PAGED, Machine
from vectomy.healing.pairs import Pair

__all__ = ["Estimate", "estimate"]

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
# 4-bit values, and the quantised scales of blocks of 64 (arXiv 2305.14314).
FOUR_BIT = 0.53
# Numbers of the stream's width that one block keeps of a token for its backward pass: norms,
# queries, keys, values, attention's output, the gate, up and product of an MLP some four times as
# wide, each adapter's input.
PER_BLOCK = 34
PROGRAM = 800 << 20


@dataclass(frozen=True)
class Estimate:
    """Bytes are of one process; seconds are of all steps, None without a measured pass."""

    steps: int
    tokens: int
    """Read in all, chosen and rejected, over all epochs."""
    trained: int
    memory: dict[str, int]
    seconds: float | None

    @property
    def bytes(self) -> int:
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bytes": self.bytes}

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {size / 2**30:.2g}" for name, size in self.memory.items() if size > 1 << 26
        )
        time = (
            ""
            if self.seconds is None
            else f"; some {duration(self.seconds)}, from one forward pass that was timed"
        )
        return (
            f"{self.steps} steps, {self.tokens:,} tokens, {self.trained:,} trained parameters; some {self.bytes / 2**30:.1f} GiB of memory "
            f"a process ({parts}){time}"
        )


def estimate(
    config: HealConfig,
    machine: Machine,
    arch: Architecture,
    pairs: Sequence[Pair],
    *,
    seconds_per_token: float | None = None,
    processes: int = 1,
    shards: int = 1,
) -> Estimate:
    """Of a job; `shards` is over how many processes weights, gradients and moments are divided
    (ZeRO-3, FSDP).
    """
    whole = sum(math.prod(shape) for shape in arch.shapes.values())
    trained = whole if machine.method == "full" else adapter_parameters(config, arch)
    batch = config.micro_batch * config.accumulation * processes
    steps = config.max_steps or max(1, math.ceil(len(pairs) / batch * config.epochs))
    mean = sum(pair.tokens for pair in pairs) / len(pairs)
    tokens = round(mean * steps * batch)
    seconds = (
        None
        if seconds_per_token is None
        else seconds_per_token * tokens / processes * passes(config, machine)
    )
    return Estimate(
        steps, tokens, trained, _memory(config, machine, arch, pairs, whole, trained, shards), seconds
    )


def adapter_parameters(config: HealConfig, arch: Architecture) -> int:
    """Of A and B on all matrices of the blocks, which is what `all-linear` means."""
    return sum(config.rank * (rows + columns) for rows, columns in _adapted(arch))


def _adapted(arch: Architecture) -> list[Sequence[int]]:
    """Shapes of the matrices that take an adapter."""
    blocks = f"{arch.stored(arch.family.blocks)}."
    return [shape for name, shape in arch.shapes.items() if name.startswith(blocks) and len(shape) == 2]


def passes(config: HealConfig, machine: Machine) -> float:
    """What a step costs, in forward passes: forward, backward (twice as much where every weight has
    a gradient), the forward pass again where activations are not kept, and the reference's.
    """
    backward = 2.0 if machine.method == "full" else 1.3
    return (
        1
        + backward
        + (1 if config.gradient_checkpointing else 0)
        + (1 if config.objective in ("dpo", "ipo") else 0)
    )


def _memory(
    config: HealConfig,
    machine: Machine,
    arch: Architecture,
    pairs: Sequence[Pair],
    whole: int,
    trained: int,
    shards: int,
) -> dict[str, int]:
    width = BYTES[machine.dtype]
    frozen = whole * (FOUR_BIT if machine.method == "qlora" else width)
    moments = 2 if machine.optimizer in PAGED else 8
    # Weights that are all trained are their own copy; an adapter's are float32 beside the frozen
    # ones.
    own = 0 if machine.method == "full" else 4
    reference = whole * width if machine.method == "full" and config.objective in ("dpo", "ipo") else 0
    longest = sorted(
        (len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in pairs), reverse=True
    )
    rows = config.micro_batch * (2 if config.paired else 1)
    tokens = min(longest[0], config.max_length) * rows
    # Dropout makes each adapter an input of its own, in float32 (PEFT casts to the adapter's type
    # before it).
    dropped = (
        0 if machine.method == "full" or not config.dropout else sum(columns for _, columns in _adapted(arch))
    )
    whole_blocks = 1 if config.gradient_checkpointing else arch.n_layers
    begins = arch.n_layers if config.gradient_checkpointing else 0
    stream = (begins + whole_blocks * PER_BLOCK) * arch.d_model * width
    kept = stream + whole_blocks * dropped / arch.n_layers * BYTES["float32"]
    # ORPO holds logits whole, and what softmax makes of them; the others take tiles.
    logits = tokens * arch.vocab * 4 * (3 if config.objective == "orpo" else 1)
    return {
        "weights": int((frozen + reference) / shards),
        "trained": int(trained * (own + 4 + moments) / shards),
        "activations": int(tokens * kept),
        "logits": int(logits),
        "program": PROGRAM,
    }
