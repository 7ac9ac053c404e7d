"""Backward passes in less memory: each block is computed again when its gradient is due.

A forward pass then stores the input of each block instead of everything inside it. The gradients
are equal to the bit; a backward pass takes about a third longer (activation checkpointing, Chen et
al. 2016, arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from vectomy.architecture import architecture_of
from vectomy.models.attention_kernels import without_cudnn_attention
from vectomy.models.chat import ChatModel

__all__ = ["count_saved_bytes", "recompute_blocks"]


@contextmanager
def recompute_blocks(chat: ChatModel, first: int = 0) -> Iterator[None]:
    """A context in which backward passes compute the blocks from layer `first` on again.

    Hooks inside the blocks run again, too: the hooks of the forward pass must be there until the
    backward pass has ended. Blocks must not change what they are given (a cache of keys and
    values).
    """
    # The live model's own path: the folder's differs where text is loaded out of a VLM folder.
    live = architecture_of(chat.model)
    blocks = [chat.model.get_submodule(live.block(layer)) for layer in range(first, live.n_layers)]
    # accelerate and `resume_at` keep their forward in the same place.
    replaced = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = partial(_checkpointed, block.forward)
        yield
    finally:
        for block, forward in zip(blocks, replaced, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # Models in evaluation mode draw no random numbers.
    return checkpoint(
        partial(_run_block, forward), *args, use_reentrant=False, preserve_rng_state=False, **kwargs
    )


def _run_block(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # Chosen here, so that the block runs on the same kernels both times.
    with without_cudnn_attention():
        return forward(*args, **kwargs)


def count_saved_bytes(work: Callable[[], object]) -> int:
    """Bytes of the tensors that autograd stores for the backward pass while `work` runs.

    A storage counts once, however many tensors share it; parameters do not count.
    """
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and not _is_view_of_parameter(tensor):
            storage = tensor.untyped_storage()
            # On the meta device no storage has an address.
            sizes[storage._cdata] = storage.nbytes()
        # Detached: an output that its own node stored as it is would never be freed, nor would the
        # model behind it.
        return tensor.detach()

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(sizes.values())


def _is_view_of_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor._base, torch.nn.Parameter)
