"""Steps, memory and time of a training before it starts; time from one measured forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vectomy.architecture import Architecture
from vectomy.core.json_value import JsonObject
from vectomy.healing.heal_config import HealConfig
from vectomy.healing.machine import PAGED, Machine
from vectomy.healing.pairs import Pair

__all__ = ["Estimate", "estimate"]

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
# 4-bit values, and the quantised scales of blocks of 64 (arXiv 2305.14314).
FOUR_BIT = 0.53
# Vectors of width d_model that one block keeps per token for its backward pass: norms, queries,
# keys, values, attention output, gate, up and product of an MLP about four times as wide, and the
# input of each adapter.
PER_BLOCK = 34
PROGRAM = 800 << 20


@dataclass(frozen=True)
class Estimate:
    """The estimate of a training. Bytes are of one process; seconds of all steps, None without a
    measured pass.
    """

    steps: int
    tokens: int
    """Tokens of chosen and rejected answers with their prompts, over all epochs."""
    trained: int
    """Trained parameters."""
    memory: dict[str, int]
    seconds: float | None

    @property
    def bytes(self) -> int:
        return sum(self.memory.values())

    def to_json(self) -> JsonObject:
        return {**asdict(self), "bytes": self.bytes}

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {size / 2**30:.2g}" for name, size in self.memory.items() if size > 1 << 26
        )
        # Not the seconds: one forward pass tells too little of a training, whose first steps do.
        return (
            f"{self.steps} steps, {self.tokens:,} tokens, {self.trained:,} trained parameters; about "
            f"{self.bytes / 2**30:.1f} GiB of memory a process ({parts})"
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
    """The estimate of a job.

    Args:
        seconds_per_token: of a forward pass of the edited model.
        shards: processes that weights, gradients and moments are divided over (ZeRO-3, FSDP).
    """
    whole = sum(math.prod(shape) for shape in arch.shapes.values())
    trained = whole if machine.method == "full" else count_adapter_parameters(config, arch)
    batch = config.micro_batch * config.accumulation * processes
    steps = config.max_steps or max(1, math.ceil(len(pairs) / batch * config.epochs))
    mean = sum(pair.tokens for pair in pairs) / len(pairs)
    tokens = round(mean * steps * batch)
    seconds = (
        None
        if seconds_per_token is None
        else seconds_per_token * tokens / processes * count_passes(config, machine)
    )
    return Estimate(
        steps,
        tokens,
        trained,
        _estimate_memory(config, machine, arch, pairs, whole, trained, shards),
        seconds,
    )


def count_adapter_parameters(config: HealConfig, arch: Architecture) -> int:
    """Parameters of A and B on all matrices of the blocks, which is what `all-linear` means."""
    return sum(config.rank * (rows + columns) for rows, columns in _adapter_shapes(arch))


def _adapter_shapes(arch: Architecture) -> list[Sequence[int]]:
    """Shapes of the matrices that take an adapter."""
    blocks = f"{arch.stored(arch.family.blocks)}."
    return [shape for name, shape in arch.shapes.items() if name.startswith(blocks) and len(shape) == 2]


def count_passes(config: HealConfig, machine: Machine) -> float:
    """The cost of a step in forward passes: forward, backward (twice that where every weight has a
    gradient), recomputation with gradient checkpointing, and the reference model.
    """
    backward = 2.0 if machine.method == "full" else 1.3
    return (
        1
        + backward
        + (1 if config.gradient_checkpointing else 0)
        + (1 if config.objective in ("dpo", "ipo") else 0)
    )


def _estimate_memory(
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
    # Full training needs no copy of the weights; an adapter is float32, beside the frozen weights.
    own = 0 if machine.method == "full" else 4
    reference = whole * width if machine.method == "full" and config.objective in ("dpo", "ipo") else 0
    longest = sorted(
        (len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in pairs), reverse=True
    )
    rows = config.micro_batch * (2 if config.paired else 1)
    tokens = min(longest[0], config.max_length) * rows
    # With dropout each adapter keeps its own input, in float32: PEFT casts it first.
    dropped = (
        0
        if machine.method == "full" or not config.dropout
        else sum(columns for _, columns in _adapter_shapes(arch))
    )
    whole_blocks = 1 if config.gradient_checkpointing else arch.n_layers
    begins = arch.n_layers if config.gradient_checkpointing else 0
    stream = (begins + whole_blocks * PER_BLOCK) * arch.d_model * width
    kept = stream + whole_blocks * dropped / arch.n_layers * BYTES["float32"]
    # ORPO keeps whole logits and their softmax; the other objectives work in tiles.
    logits = tokens * arch.vocab * 4 * (3 if config.objective == "orpo" else 1)
    return {
        "weights": int((frozen + reference) / shards),
        "trained": int(trained * (own + 4 + moments) / shards),
        "activations": int(tokens * kept),
        "logits": int(logits),
        "program": PROGRAM,
    }
