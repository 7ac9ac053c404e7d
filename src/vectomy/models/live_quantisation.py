"""Weights that are quantised while the model runs: `--load-in`, by bitsandbytes.

Sources: NF4 and double quantisation, Dettmers et al., QLoRA, arXiv 2305.14314; 8 bits with
outliers apart, Dettmers et al., LLM.int8(), arXiv 2208.07339.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from vectomy.architecture import Architecture
from vectomy.checkpoint import Checkpoint
from vectomy.checkpoint.quantization import check_supported
from vectomy.core.config import LoadIn
from vectomy.core.errors import ModelError
from vectomy.core.packages import describe_missing
from vectomy.models.precision import stored_dtype

__all__ = ["keep_exact", "make_quantisation", "missing_quantiser"]


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
    """Arguments of `from_pretrained` that quantise a checkpoint of plain weights; none for None.

    The head stays as it is, and so do writers whose kernels take their weights without calling the
    layer (Mamba's): they could not be edited while the model runs.

    Args:
        dtype: what the model computes in; None is the checkpoint's own.

    Raises:
        ModelError: bitsandbytes is not installed, or the checkpoint is quantised already.
    """
    if load_in is None:
        return {}
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


def keep_exact(model: nn.Module) -> None:
    """Let 4-bit layers compute the same with and without gradients.

    On processors with AVX512-BF16, bitsandbytes packs them for a kernel that computes in bfloat16
    and fits some shapes only, and unpacks them with loss where gradients are asked for.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
