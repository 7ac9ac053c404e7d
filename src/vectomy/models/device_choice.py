"""The device that `auto` means, and whether this machine has one that is named."""

from __future__ import annotations

import torch

from vectomy.core.errors import ModelError
from vectomy.core.ranks import current_ranks

__all__ = ["check_device", "choose_device", "place_weights"]


def choose_device(device: str) -> str:
    """The device of a model, as transformers takes it: `auto` is all cards together, this process's
    own card where several processes share the work, else MPS, else the CPU.

    Raises:
        ModelError: this machine has no such device.
    """
    card = current_ranks().card
    if card is not None and device in ("auto", "cuda"):
        return f"cuda:{card}"
    if device == "auto":
        return "auto" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(device)
    return device


def check_device(device: str) -> None:
    """Raise a ModelError unless this machine has `device` (cpu, cuda, cuda:N, mps)."""
    kind = device.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        usable = ", ".join(name for name, yes in there.items() if yes)
        raise ModelError(f"this machine has no device '{device}'; usable: auto, {usable}")


def place_weights(device: str, tensor_parallel: bool) -> dict[str, str]:
    """Arguments of `from_pretrained` for where the weights go.

    Raises:
        ModelError: tensor parallelism in a step that one process does alone.
    """
    if not tensor_parallel:
        return {"device_map": device}
    if not current_ranks().lockstep:
        raise ModelError(
            "--tensor-parallel divides models of `run` and `evaluate` over the processes of a launcher, and "
            "this step is done by one process alone (as those of a trait are); leave it out"
        )
    return {"tp_plan": "auto"}
