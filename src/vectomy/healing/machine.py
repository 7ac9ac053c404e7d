"""Settings of a training that depend on the machine: method, optimiser, precision, attention. What
the machine cannot do is refused by name.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal

import torch

from vectomy.core.errors import ConfigError, ModelError
from vectomy.healing.heal_config import HealConfig
from vectomy.models import cards_compute_bfloat16, check_device

__all__ = ["PAGED", "Machine", "is_sharded", "resolve_machine"]

PAGED = ("paged_adamw_8bit", "paged_adamw_32bit", "adamw_bnb_8bit")


@dataclass(frozen=True)
class Machine:
    """The settings of HealConfig with every `auto` resolved."""

    device: str
    method: Literal["lora", "qlora", "full"]
    optimizer: str
    dtype: str
    """Precision of the frozen weights; adapters are trained in float32."""
    attention: str | None
    processes: int = 1

    def arguments(self) -> dict[str, bool | str | None]:
        """The same as arguments of TRL."""
        return {
            "use_cpu": self.device == "cpu",
            "bf16": self.dtype == "bfloat16",
            "fp16": self.dtype == "float16",
            "optim": self.optimizer,
            "dataloader_pin_memory": self.device.startswith("cuda"),
            # All adapters of linear layers are used in every step; routed experts may not be.
            "ddp_find_unused_parameters": None if self.method == "full" else False,
        }


def resolve_machine(config: HealConfig) -> Machine:
    """Resolve `auto` for this machine, and check what it can do.

    Raises:
        ModelError: the device is missing or cannot do what is asked; the message names the remedy.
        ConfigError: two settings exclude each other.
    """
    device = _resolve_device(config.runtime.device)
    cuda = device.startswith("cuda")
    bits = cuda and importlib.util.find_spec("bitsandbytes") is not None
    method = config.method
    if method == "auto":
        method = "qlora" if bits else "lora"
    if method == "qlora" and not bits:
        lacks = (
            "the package bitsandbytes (pip install 'vectomy[quantised]')"
            if cuda
            else f"a CUDA card, and this runs on {device}"
        )
        raise ModelError(f"QLoRA keeps the frozen weights in 4 bits, which needs {lacks}; use --method lora")
    optimizer = config.optimizer
    if optimizer == "auto":
        optimizer = "paged_adamw_8bit" if bits else "adamw_torch"
    if optimizer in PAGED and not bits:
        raise ModelError(
            f"the optimiser {optimizer} needs a CUDA card and the package bitsandbytes; here use "
            "--optimizer adamw_torch"
        )
    dtype = (
        "float32"
        if config.runtime.dtype == "auto" and method == "full" and not cuda
        else config.runtime.dtype
    )
    if dtype == "auto":
        dtype = "bfloat16" if not cuda or cards_compute_bfloat16() else "float16"
    if dtype == "float16" and not cuda:
        raise ConfigError(
            "float16 training needs a CUDA card; on this machine use --dtype bfloat16 or float32"
        )
    if config.report_to != "none" and importlib.util.find_spec(config.report_to) is None:
        raise ModelError(
            f"--report-to {config.report_to} needs the package {config.report_to}: "
            f"pip install {config.report_to}"
        )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if cuda and processes == 1 and ":" not in config.runtime.device and torch.cuda.device_count() > 1:
        raise ModelError(
            f"{torch.cuda.device_count()} cards are visible to one process; use all of them with --launch "
            "ddp (or zero2, zero3, fsdp), or one with CUDA_VISIBLE_DEVICES=0"
        )
    return Machine(device, method, optimizer, dtype, _resolve_attention(config, cuda, dtype), processes)


def is_sharded() -> bool:
    """Whether each process holds only a part of the weights (FSDP, ZeRO-3), read from accelerate's
    environment.
    """
    zero = (
        os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    )
    return zero or os.environ.get("ACCELERATE_USE_FSDP") == "true"


def _resolve_device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(asked)
    return asked


def _resolve_attention(config: HealConfig, cuda: bool, dtype: str) -> str | None:
    available = cuda and dtype != "float32" and importlib.util.find_spec("flash_attn") is not None
    if config.attention == "auto":
        # None: the default of transformers for the model type; not all types have sdpa.
        return "flash_attention_2" if available else None
    if config.attention == "flash_attention_2" and not available:
        lacks = "the package flash-attn" if cuda else "a CUDA card"
        raise ModelError(f"flash attention needs {lacks} and a 16-bit dtype; use --attention sdpa")
    return config.attention
