"""The available memory, and what a model needs of it, whole or block by block."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import psutil
import torch

from vectomy.architecture import Architecture
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.checkpoint.quantization import integer_weights
from vectomy.checkpoint.safetensors_header import TensorEntry
from vectomy.core.byte_count import parse_bytes
from vectomy.core.config import LoadIn
from vectomy.core.packages import has_kernels
from vectomy.models.block_sizes import BlockSizes

__all__ = [
    "SHARE",
    "available_memory",
    "count_layerwise_bytes",
    "count_pass_tokens",
    "count_weight_bytes",
    "fits",
    "largest_block",
    "layerwise_memory",
    "limit_memory",
    "loaded_bytes",
    "memory_for",
]

# Weights may take this share of the available memory; activations, the interpreter and other
# programs need the rest.
SHARE = 0.8
# A pass may take this share of the free memory of a card.
PASS_SHARE = 0.5
FEWEST_TOKENS, MOST_TOKENS = 256, 1 << 16
# Interpreter, torch and transformers.
PROGRAM = 600 << 20
CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
BLOCK = re.compile(r"(.*?\.\d+)\.")
# Experts that are stored one by one are fused when they are loaded.
EXPERT = re.compile(r"\.experts\.\d+\.")
# 4 bits a weight, 8 for the scale of each 64 weights, and 32 for that of each 256 such scales.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)


_LIMIT: ContextVar[int | None] = ContextVar("memory limit", default=None)


@contextmanager
def limit_memory(limit: str | None) -> Iterator[None]:
    """A context in which `available_memory` counts no more than `limit` (`1.5GB`) for this
    process, of a card or of the machine; None: all there is.
    """
    before = _LIMIT.set(None if limit is None else parse_bytes(limit))
    try:
        yield
    finally:
        _LIMIT.reset(before)


def available_memory(device: torch.device | None = None) -> int:
    """Free bytes on a card; without one, on this machine or in its container. At most what
    `limit_memory` leaves to this process.
    """
    limit = _LIMIT.get()
    if device is not None and device.type == "cuda":
        free = _free_on_card(device)
        return free if limit is None else max(0, min(free, limit - torch.cuda.memory_allocated(device)))
    free = _free_on_machine()
    return free if limit is None else max(0, min(free, limit - psutil.Process().memory_info().rss))


def _free_on_machine() -> int:
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (Path(path).read_text(encoding="ascii").strip() for path in CGROUP)
        return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def _free_on_card(device: torch.device) -> int:
    """Free bytes, with those that PyTorch has reserved and does not use, below its limit."""
    # Not every function of torch.cuda takes "cuda" for the current card.
    card = torch.cuda.current_device() if device.index is None else device.index
    free, total = torch.cuda.mem_get_info(card)
    reserved = torch.cuda.memory_reserved(card)
    # Newer than the oldest torch that is allowed.
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _card: 1.0)
    limit = int(total * fraction(card))
    return max(0, min(free, limit - reserved)) + reserved - torch.cuda.memory_allocated(card)


def count_pass_tokens(config: Any, free: int, itemsize: int) -> int:
    """Tokens of one forward pass without gradients for which `free` bytes are enough.

    A token takes its keys and values in every layer, and what a block computes at once: some 12
    times the stream and 6 times the inner width of the MLP.

    Args:
        config: transformers' configuration of the text model.
        itemsize: bytes of a number.
    """
    sizes = BlockSizes.of(config)
    tokens = int(PASS_SHARE * free) // (itemsize * (sizes.kv_numbers + sizes.pass_numbers))
    return max(FEWEST_TOKENS, min(MOST_TOKENS, tokens))


def loaded_bytes(checkpoint: Checkpoint, dtype: str, device: str, load_in: LoadIn | None = None) -> int:
    """Bytes of the whole model in memory.

    Args:
        load_in: how bitsandbytes packs it.
        dtype: what it is loaded in; `auto` is as stored. fp8 is decoded to 16 bits then off a card
            and without kernels; MXFP4, GPTQ and AWQ always (live_quantisation.py).
    """
    asked = None if dtype == "auto" else getattr(torch, dtype).itemsize
    if load_in is not None:
        return count_weight_bytes(architecture_in(checkpoint), asked or 2, load_in)
    decoded = not device.startswith("cuda") or not has_kernels()
    sizes = _integer_sizes(checkpoint, asked)
    return sum(
        sizes.get(entry.name, _loaded_size(entry, asked, decoded)) for entry in checkpoint.tensors.values()
    )


def _integer_sizes(checkpoint: Checkpoint, asked: int | None) -> dict[str, int]:
    """Bytes of decoded weights by the first tensor of each, and 0 for its others."""
    sizes: dict[str, int] = {}
    for packed in integer_weights(checkpoint).values():
        size = math.prod(packed.shape) * (asked or 2)
        sizes |= dict.fromkeys(packed.parts, 0) | {packed.parts[0]: size}
    return sizes


def _loaded_size(entry: TensorEntry, asked: int | None, decoded: bool) -> int:
    size = entry.end - entry.start
    if entry.dtype in ("F64", "F32", "F16", "BF16"):
        return size if asked is None else math.prod(entry.shape) * asked
    if not decoded and asked is None and not entry.name.endswith("_blocks"):
        return size
    if entry.dtype.startswith("F8_E4M3") or entry.dtype.startswith("F8_E5M2"):
        return size * (asked or 2)
    return 2 * size * (asked or 2) if entry.name.endswith("_blocks") else size


def memory_for(device: str) -> int:
    """Free bytes for a model on `device`, as `load_model` takes it: with `auto` on all cards."""
    if not torch.cuda.is_available() or not device.startswith(("auto", "cuda")):
        return available_memory()
    if device == "auto":
        return sum(available_memory(torch.device("cuda", n)) for n in range(torch.cuda.device_count()))
    return available_memory(torch.device(device))


def fits(checkpoint: Checkpoint, device: torch.device | None = None, times: int = 1) -> bool:
    """Whether the model can be loaded whole, in its stored dtype or in one `times` as wide."""
    return times * checkpoint.bytes <= SHARE * available_memory(device)


def count_weight_bytes(architecture: Architecture, itemsize: int, load_in: LoadIn | None = None) -> int:
    """Bytes of the weights of a live model, whole or quantised.

    bitsandbytes packs the linear layers of the blocks. It leaves the embeddings, the head, fused
    experts, and layers whose kernels take their weights directly as they are.

    Args:
        architecture: with the shapes of all tensors.
        itemsize: bytes of a number that is not packed.
    """
    block = re.compile(re.escape(architecture.stored(f"{architecture.family.blocks}.")) + r"\d+\.(.+)")
    direct = {slot.live_weight for slot in architecture.family.slots if slot.functional}
    total = 0.0
    for name, shape in architecture.shapes.items():
        if architecture.tied and name == architecture.head:
            continue
        match, count = block.match(name), math.prod(shape)
        layer = match[1] if match and len(shape) == 2 and not EXPERT.search(name) else ""
        if load_in is None or not layer.endswith(".weight") or layer in direct:
            total += count * itemsize
        elif load_in == "4bit":
            total += count * NF4_BITS / 8
        else:
            total += count + 4 * shape[0]
    return math.ceil(total)


def largest_block(checkpoint: Checkpoint) -> int:
    """Bytes of the largest block as it is read (fp8 and MXFP4 decoded to 16 bits). A block is all
    tensors that share a name up to its first number ("model.layers.3").
    """
    sizes: dict[str, int] = {}
    integers = _integer_sizes(checkpoint, None)
    for name, entry in checkpoint.tensors.items():
        match = BLOCK.match(name)
        if match is not None:
            size = integers.get(name, _loaded_size(entry, None, decoded=True))
            sizes[match[1]] = sizes.get(match[1], 0) + size
    return max(sizes.values(), default=0)


def layerwise_memory(
    checkpoint: Checkpoint, architecture: Architecture, tokens: int, batch_tokens: int = 4096
) -> int:
    """Peak bytes of a pass block by block.

    This counts two blocks (one running, one being read), the stream and the embeddings of all
    prompts, and a block's activations for one batch. These are estimated as 16 times the stream
    (attention, and an MLP four times as wide with gate, up and their product).

    Args:
        tokens: tokens of all prompts, including padding.
    """
    return count_layerwise_bytes(largest_block(checkpoint), architecture.d_model, tokens, batch_tokens)


def count_layerwise_bytes(block: int, d_model: int, tokens: int, batch_tokens: int = 4096) -> int:
    """`layerwise_memory` from the bytes of the largest block."""
    stream = d_model * 2
    return PROGRAM + 2 * block + 2 * tokens * stream + 16 * batch_tokens * stream
