"""Out of memory while training: which setting to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vectomy.core.errors import ModelError
from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.healing.heal_config import HealConfig
from vectomy.healing.machine import Machine

__all__ = ["explain_out_of_memory", "suggest_setting"]

SHORT = 512


@contextmanager
def explain_out_of_memory(config: HealConfig, machine: Machine) -> Iterator[None]:
    """Turn an out-of-memory error of any device into one that names the setting to change.

    Raises:
        ModelError: memory ran out in the block.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"out of memory while training on {machine.device}; {suggest_setting(config, machine)}"
        ) from error


def suggest_setting(config: HealConfig, machine: Machine) -> str:
    """The setting to change first. Settings that leave the result as it is come before others."""
    if config.micro_batch > 1:
        half = config.micro_batch // 2
        more = config.accumulation * config.micro_batch // half
        return (
            f"use --micro-batch {half} --accumulation {more} (now {config.micro_batch} and "
            f"{config.accumulation}; the step stays the same)"
        )
    if not config.gradient_checkpointing:
        return "use --gradient-checkpointing (a fifth slower, the result stays the same)"
    if machine.method == "full":
        return (
            "use --method lora (now full, which keeps gradients and moments of every weight), or shard with "
            "--launch zero3"
        )
    if config.max_length > SHORT:
        return f"use --max-length {max(SHORT, config.max_length // 2)} (now {config.max_length})"
    if machine.method == "lora" and machine.device.startswith("cuda"):
        return "use --method qlora (frozen weights in 4 bits)"
    return (
        f"use --rank {max(1, config.rank // 2)} (now {config.rank}), a smaller model, or shard it over "
        "several cards with --launch zero3"
    )
