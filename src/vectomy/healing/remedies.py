"""Out of memory, with the setting to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vectomy.core.errors import ModelError
from vectomy.healing.heal_config import HealConfig
from vectomy.healing.machine import Machine

__all__ = ["explain_out_of_memory", "remedy"]

SHORT = 512


@contextmanager
def explain_out_of_memory(config: HealConfig, machine: Machine) -> Iterator[None]:
    """Turn 'out of memory' of any device into an error that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if (
            not isinstance(error, MemoryError)
            and "out of memory" not in text
            and "not enough memory" not in text
        ):
            raise
        raise ModelError(
            f"out of memory while training on {machine.device}; {remedy(config, machine)}"
        ) from error


def remedy(config: HealConfig, machine: Machine) -> str:
    """What to change first: what costs the result nothing comes before what does."""
    if config.micro_batch > 1:
        half = config.micro_batch // 2
        more = config.accumulation * config.micro_batch // half
        return f"use --micro-batch {half} --accumulation {more} (now {config.micro_batch} and {config.accumulation}; the step stays the same)"
    if not config.gradient_checkpointing:
        return "use --gradient-checkpointing (a fifth slower, the result stays the same)"
    if machine.method == "full":
        return "use --method lora (now full, which holds gradients and moments of every weight), or shard with --launch zero3"
    if config.max_length > SHORT:
        return f"use --max-length {max(SHORT, config.max_length // 2)} (now {config.max_length})"
    if machine.method == "lora" and machine.device.startswith("cuda"):
        return "use --method qlora (frozen weights in 4 bits)"
    return f"use --rank {max(1, config.rank // 2)} (now {config.rank}), a smaller model, or shard it over several cards with --launch zero3"
