"""Which of PyTorch's attention kernels run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["without_cudnn_attention"]


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """A context in which fused attention runs on flash or memory-efficient kernels.

    cuDNN's, which PyTorch prefers on Hopper cards, plans anew for every new shape, and an answer
    gets a new shape with each token: on an H200 a step of decoding an 8B model took 164 ms instead
    of 42 (docs/log/gpu.md).
    """
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)
