"""Weights that are quantised while the model runs: `--load-in`, by bitsandbytes, and checkpoints
that are quantised already.

Sources: NF4 and double quantisation, Dettmers et al., QLoRA, arXiv 2305.14314; 8 bits with
outliers apart, Dettmers et al., LLM.int8(), arXiv 2208.07339.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn

from vectomy.architecture import Architecture
from vectomy.checkpoint import Checkpoint
from vectomy.checkpoint.quantization import check_supported
from vectomy.core.config import LoadIn
from vectomy.core.errors import ModelError
from vectomy.core.packages import describe_missing, has_kernels
from vectomy.models.precision import stored_dtype

__all__ = [
    "can_learn_through",
    "decode_packed",
    "explain_decoding",
    "keep_exact",
    "make_quantisation",
    "missing_quantiser",
]

# Formats through whose packed weights transformers trains, with kernels of the package `kernels`.
NEEDS_KERNELS = ("fp8", "mxfp8")
DECODED = ("float32", "bfloat16", "float16")


def missing_quantiser(load_in: LoadIn | None) -> str | None:
    """One sentence with the command that installs what `--load-in` needs; None where it is here."""
    return None if load_in is None else describe_missing(f"--load-in {load_in}", "bitsandbytes")


def make_quantisation(
    load_in: LoadIn | None,
    checkpoint: Checkpoint,
    architecture: Architecture,
    config: Any,
    dtype: torch.dtype | None,
) -> dict[str, object]:
    """Arguments of `from_pretrained` that quantise a checkpoint of plain weights; for None, those
    of a checkpoint that is quantised already.

    The head stays as it is, and so do writers whose kernels take their weights without calling the
    layer (Mamba's): they could not be edited while the model runs.

    Args:
        dtype: what the model computes in; None is the checkpoint's own.

    Raises:
        ModelError: bitsandbytes is not installed, or the checkpoint is quantised already.
    """
    if load_in is None:
        return decode_packed(config)
    from transformers import BitsAndBytesConfig

    if missing := missing_quantiser(load_in):
        raise ModelError(missing)
    # It would say in every pass that it rounds inputs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if method := check_supported(checkpoint.config).method:
        raise ModelError(
            f"{checkpoint.path} is quantised already ({method}), and --load-in {load_in} quantises plain "
            "weights; leave it out, or use the bfloat16 release"
        )
    slots = architecture.family.slots
    kept = [architecture.family.head, *(slot.module for slot in slots if slot.functional)]
    if load_in == "8bit":
        chosen = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    else:
        chosen = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype or stored_dtype(config, checkpoint) or torch.float32,
            llm_int8_skip_modules=kept,
        )
    return {"quantization_config": chosen}


def decode_packed(config: Any) -> dict[str, object]:
    """Arguments of `from_pretrained` for a quantised checkpoint: decode it on loading where
    transformers cannot train through its packed weights, or lacks their kernels.

    Args:
        config: transformers' configuration of the model.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    stored = getattr(config, "quantization_config", None)
    if stored is None or not AutoHfQuantizer.supports_quant_method(_as_dict(stored)):
        return {}
    quantiser = AutoHfQuantizer.from_config(copy.deepcopy(stored), pre_quantized=True)
    chosen = quantiser.quantization_config
    if not hasattr(chosen, "dequantize") or can_learn_through(quantiser):
        return {}
    chosen.dequantize = True
    return {"quantization_config": chosen}


def can_learn_through(quantiser: Any) -> bool:
    """Whether gradients pass the packed weights of a quantiser of transformers, on this machine."""
    method = quantiser.quantization_config.quant_method
    method = getattr(method, "value", method)
    return bool(quantiser.is_trainable) and (method not in NEEDS_KERNELS or has_kernels())


def explain_decoding(checkpoint: Checkpoint, precision: str) -> str | None:
    """A note where the weights of a quantised checkpoint were decoded.

    Args:
        precision: how the live weights are held (`describe_precision`).
    """
    method = check_supported(checkpoint.config).method
    if not method or precision not in DECODED:
        return None
    return (
        f"the weights are stored in {method} and were decoded to {precision}, which takes more memory: "
        "gradients pass packed fp8 only on a card of compute capability 8.9 with the package kernels "
        "(pip install kernels), and no packed MXFP4"
    )


def _as_dict(stored: Any) -> dict[str, Any]:
    values: dict[str, Any] = stored if isinstance(stored, dict) else stored.to_dict()
    return values


def keep_exact(model: nn.Module) -> None:
    """Let 4-bit layers compute the same with and without gradients.

    On processors with AVX512-BF16, bitsandbytes packs them for a kernel that computes in bfloat16
    and fits some shapes only, and unpacks them with loss where gradients are asked for.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
