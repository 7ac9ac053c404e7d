"""The dtype that a model computes in: the checkpoint's own, unless the processor cannot compute in
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vectomy.checkpoint import Checkpoint
from vectomy.checkpoint.quantization import check_supported
from vectomy.core.json_value import JsonValue
from vectomy.models.memory import SHARE, available_memory, fits, loaded_bytes

__all__ = [
    "FLOATS",
    "capabilities",
    "cards_compute_bfloat16",
    "cast_plain",
    "computes",
    "describe_precision",
    "stored_dtype",
    "working_dtype",
]

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Instruction sets of x86 processors that multiply matrices in a 16-bit dtype. On other processors
# torch converts every element to float32 and back, which is eight times slower than float32 itself.
INSTRUCTIONS = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}


# Compute capability of the first NVIDIA cards with instructions for bfloat16.
AMPERE = (8, 0)


def stored_dtype(config: Any, checkpoint: Checkpoint) -> torch.dtype | None:
    """The dtype in config.json, else that of the first tensor that is stored unpacked."""
    stored = (FLOATS[entry.dtype] for entry in checkpoint.tensors.values() if entry.dtype in FLOATS)
    dtype: torch.dtype | None = config.dtype or next(stored, None)
    return dtype


def working_dtype(
    asked: str, config: Any, checkpoint: Checkpoint, device: str, whole: bool = True
) -> torch.dtype | None:
    """The dtype to load in. None means the checkpoint's own, which transformers finds, tensor by
    tensor where they differ.

    Args:
        asked: the name of a dtype, or `auto`: the checkpoint's own, but float32 for a 16-bit
            checkpoint on a CPU without instructions for it, if that fits in memory, and float16 for
            a bfloat16 checkpoint on a card that only emulates it.
        whole: whether the whole model is in memory at once.
    """
    if asked != "auto":
        named: torch.dtype = getattr(torch, asked)
        return named
    stored = stored_dtype(config, checkpoint)
    decoded = check_supported(checkpoint.config).integers is not None
    packed = getattr(config, "quantization_config", None) is not None and not decoded
    on_card = device == "auto" or device.startswith("cuda")
    if on_card and stored == torch.bfloat16 and not packed and not cards_compute_bfloat16():
        return torch.float16
    if device != "cpu" or packed or stored not in INSTRUCTIONS or computes(stored, capabilities()):
        return None
    if decoded:
        fitting = loaded_bytes(checkpoint, "float32", device) <= SHARE * available_memory()
    else:
        fitting = fits(checkpoint, times=2)
    return torch.float32 if fitting or not whole else None


def cards_compute_bfloat16() -> bool:
    """Whether all cards have instructions for bfloat16 (NVIDIA's since Ampere, all of AMD's).

    `torch.cuda.is_bf16_supported` is True for a T4 as well, which emulates it.
    """
    if torch.version.hip is not None:
        return True
    cards = range(torch.cuda.device_count())
    return all(torch.cuda.get_device_capability(card) >= AMPERE for card in cards)


def describe_precision(model: Any) -> str:
    """How the weights of a live model are held: `4bit` or `8bit` (bitsandbytes), another
    quantisation by its name in config.json (`fp8`, `gptq`), else the dtype (`bfloat16`).
    """
    for bits in ("4bit", "8bit"):
        if getattr(model, f"is_loaded_in_{bits}", False):
            return bits
    quantizer = getattr(model, "hf_quantizer", None)
    method = getattr(getattr(quantizer, "quantization_config", None), "quant_method", None)
    # A checkpoint that was decoded on loading keeps its quantiser and has plain weights.
    if method is not None and _has_packed_weights(model):
        return str(getattr(method, "value", method))
    return str(model.dtype).removeprefix("torch.")


def _has_packed_weights(model: nn.Module) -> bool:
    values = (*model.parameters(), *model.buffers())
    return any(value.dtype not in FLOATS.values() and value.dim() > 1 for value in values)


def cast_plain(model: nn.Module, dtype: torch.dtype) -> None:
    """Give the plain weights of a model with quantised ones the dtype that was asked for.

    transformers decodes the quantised weights to that dtype, and leaves the others as they are
    stored; the two cannot be multiplied.
    """
    lists = (getattr(model, f"_keep_in_fp32_modules{end}", None) for end in ("", "_strict"))
    kept = [part for names in lists for part in names or ()]
    for name, value in model.named_parameters():
        if value.dtype in FLOATS.values() and not value.is_meta and not any(part in name for part in kept):
            value.data = value.data.to(dtype)


def capabilities() -> Mapping[str, JsonValue]:
    """The instruction sets of this processor, as torch names them."""
    known: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return known


def computes(dtype: torch.dtype, capabilities: Mapping[str, JsonValue]) -> bool:
    """Whether a processor multiplies matrices in a 16-bit dtype; True where that is not known."""
    if capabilities.get("architecture") != "x86_64":
        return True
    return any(capabilities.get(name, False) for name in INSTRUCTIONS[dtype])
