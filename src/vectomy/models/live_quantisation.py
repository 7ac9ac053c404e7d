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
from vectomy.core.config import LoadIn, Runtime
from vectomy.core.errors import ModelError
from vectomy.core.packages import describe_missing, has_kernels
from vectomy.models.precision import stored_dtype

__all__ = [
    "can_learn_through",
    "decode_packed",
    "explain_decoding",
    "explain_divided",
    "keep_exact",
    "make_quantisation",
    "missing_quantiser",
    "quantise_linears",
    "reads_decoded",
]

# Formats through whose packed weights transformers trains, with kernels of the package `kernels`.
NEEDS_KERNELS = ("fp8", "mxfp8")
DECODED = ("float32", "bfloat16", "float16")


def missing_quantiser(load_in: LoadIn | None) -> str | None:
    """One sentence with the command that installs what `--load-in` needs; None where it is here."""
    return None if load_in is None else describe_missing(f"--load-in {load_in}", "bitsandbytes")


def explain_divided(runtime: Runtime) -> str | None:
    """Why weights cannot be both quantised and divided over processes; None where one is asked."""
    if runtime.load_in is None or not runtime.tensor_parallel:
        return None
    return (
        f"--tensor-parallel divides plain matrices, and --load-in {runtime.load_in} packs them; leave one of "
        "the two out"
    )


def reads_decoded(checkpoint: Checkpoint, load_in: LoadIn | None) -> bool:
    """Whether packed weights are decoded one by one when they are read, before transformers sees
    them: integers in groups always, and others that are quantised again.
    """
    scheme = check_supported(checkpoint.config)
    return scheme.integers is not None or (bool(scheme.method) and load_in is not None)


def make_quantisation(
    load_in: LoadIn | None,
    checkpoint: Checkpoint,
    architecture: Architecture,
    config: Any,
    dtype: torch.dtype | None,
) -> dict[str, object]:
    """Arguments of `from_pretrained` that quantise weights, which are plain or decoded; for None,
    those of a checkpoint that is quantised already.

    The head stays as it is, and so do writers whose kernels take their weights without calling the
    layer (Mamba's): they could not be edited while the model runs.

    Args:
        dtype: what the model computes in; None is the checkpoint's own.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if load_in is None:
        return {} if reads_decoded(checkpoint, load_in) else decode_packed(config)
    if missing := missing_quantiser(load_in):
        raise ModelError(missing)
    from transformers import BitsAndBytesConfig

    # It would say in every pass that it rounds inputs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
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
    scheme = check_supported(checkpoint.config)
    method = scheme.method
    if method and precision in ("4bit", "8bit"):
        return (
            f"the weights are stored in {method} and were quantised again in memory, to {precision}: a "
            "second rounding; the edited checkpoint is made from the stored ones"
        )
    if scheme.integers:
        return (
            f"the weights are stored in {method} and were decoded to {precision}, in which the edited "
            "checkpoint is written; gradients pass no packed integers"
        )
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


def quantise_linears(model: nn.Module, load_in: LoadIn, dtype: torch.dtype) -> None:
    """Replace the linear layers of a live model by quantised ones, as `make_quantisation` has them
    loaded.

    Args:
        dtype: what the model computes in.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if missing := missing_quantiser(load_in):
        raise ModelError(missing)
    # It tells of the kernels that it does not find.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    named = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    for name, linear in named:
        plain, sizes = linear.weight.data, (linear.in_features, linear.out_features)
        packed: Any
        if load_in == "4bit":
            form = {"compress_statistics": True, "quant_type": "nf4"}
            packed = Linear4bit(*sizes, bias=False, compute_dtype=dtype, device="meta", **form)
            packed.weight = Params4bit(plain, requires_grad=False, module=packed, **form).to(plain.device)
        else:
            packed = Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=6.0, device="meta")
            packed.weight = Int8Params(plain, requires_grad=False, has_fp16_weights=False).to(plain.device)
        packed.bias = linear.bias
        model.set_submodule(name, packed)
    keep_exact(model)


def keep_exact(model: nn.Module) -> None:
    """Let 4-bit layers compute the same with and without gradients.

    On processors with AVX512-BF16, bitsandbytes packs them for a kernel that computes in bfloat16
    and fits some shapes only, and unpacks them with loss where gradients are asked for.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
