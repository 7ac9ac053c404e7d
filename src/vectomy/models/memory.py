"""What memory there is, and what a model takes of it: whole, or block by block."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch

from vectomy.architecture import Architecture
from vectomy.checkpoint import Checkpoint

__all__ = ["available_memory", "fits", "layerwise_memory"]

# Of the memory that is there, this much may be weights: activations, the interpreter and other
# programs take the rest.
SHARE = 0.8
# Interpreter, torch and transformers.
PROGRAM = 600 << 20
CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
BLOCK = re.compile(r"(.*?\.\d+)\.")


def available_memory(device: torch.device | None = None) -> int:
    """Bytes that can still be taken: of a card, or of this machine, or of the container that this
    is.
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (Path(path).read_text(encoding="ascii").strip() for path in CGROUP)
        return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def fits(checkpoint: Checkpoint, device: torch.device | None = None, times: int = 1) -> bool:
    """Whether the model can be loaded whole, in the dtype it is stored in, or in one that is
    `times` as wide.
    """
    return times * checkpoint.bytes <= SHARE * available_memory(device)


def largest_block(checkpoint: Checkpoint) -> int:
    """Bytes on disk of the largest block: of what shares a name up to its first number
    ("model.layers.3").
    """
    sizes: dict[str, int] = {}
    for name, entry in checkpoint.tensors.items():
        found = BLOCK.match(name)
        if found is not None:
            sizes[found[1]] = sizes.get(found[1], 0) + entry.end - entry.start
    return max(sizes.values(), default=0)


def layerwise_memory(
    checkpoint: Checkpoint, architecture: Architecture, tokens: int, batch_tokens: int = 4096
) -> int:
    """Bytes that a pass block by block takes at its peak, for prompts of `tokens` tokens in all,
    padding included.

    Two blocks (one at work, one being read), the stream and the embeddings of all prompts, and for
    one batch what a block makes of it, taken to be 16 times the stream (gate, up and their product
    in an MLP four times as wide, and attention).
    """
    stream = architecture.d_model * 2
    return PROGRAM + 2 * largest_block(checkpoint) + 2 * tokens * stream + 16 * batch_tokens * stream
