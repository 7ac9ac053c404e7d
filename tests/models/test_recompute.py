"""Blocks that the backward pass computes again: the same gradients to the bit, in less memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import tiny_chat
import torch
from tiny import random_model, tokens
from torch import Tensor

from vectomy.architecture import architecture_of
from vectomy.core import linalg
from vectomy.hooks.writer_outputs import change_outputs, is_hookable
from vectomy.models import ChatModel, count_saved_bytes, recompute_blocks

TIER = "chat"

# Dense, mixture of experts, parallel blocks, layers in turn with windows, recurrent, shared layers.
TYPES = ("llama", "qwen3_moe", "gpt_neox", "gemma2", "jamba", "gpt_oss")


def gradient(chat: ChatModel, first: int | None) -> tuple[Tensor, Tensor, Tensor, int]:
    """The loss, the gradients of a direction and of strengths, and the stored bytes."""
    torch.manual_seed(0)
    direction = torch.randn(chat.architecture.d_model).requires_grad_()
    writers = [writer for writer in chat.architecture.writers if is_hookable(writer) and writer.layer]
    strengths = torch.full((len(writers),), 0.7).requires_grad_()
    basis = linalg.normalise(direction)[None]

    def change(index: int) -> Callable[[Tensor], Tensor]:
        return lambda output: linalg.remove(output, basis, strengths[index : index + 1])

    losses: list[Tensor] = []

    def forward() -> None:
        hidden = chat.model.base_model(input_ids=tokens(), use_cache=False).last_hidden_state
        losses.append(chat.log_probs(hidden)[..., 3].mean())

    with change_outputs(chat.model, [(writer, change(index)) for index, writer in enumerate(writers)]):
        if first is None:
            stored = count_saved_bytes(forward)
            losses[0].backward()
        else:
            with recompute_blocks(chat, first):
                stored = count_saved_bytes(forward)
                losses[0].backward()
    assert direction.grad is not None
    assert strengths.grad is not None
    return losses[0].detach(), direction.grad, strengths.grad, stored


def chat_of(model_type: str) -> ChatModel:
    model = random_model(model_type)
    return ChatModel(model_type, tiny_chat.chat().checkpoint, architecture_of(model), model, None)


@pytest.mark.parametrize("model_type", TYPES)
def test_recomputed_blocks_give_the_same_gradients_to_the_bit(model_type: str) -> None:
    chat = chat_of(model_type)
    plain, recomputed = gradient(chat, None), gradient(chat, 0)
    for value, again in zip(plain[:3], recomputed[:3], strict=True):
        assert torch.equal(value, again)
    assert float(plain[1].abs().max()) > 0
    assert recomputed[3] < 0.7 * plain[3]


def test_stored_bytes_fall_with_every_recomputed_block() -> None:
    chat = chat_of("llama")
    n_layers = chat.architecture.n_layers
    stored = [gradient(chat, first)[3] for first in range(n_layers, -1, -1)]
    assert stored[0] == gradient(chat, None)[3]
    assert all(after < before for before, after in pairwise(stored))


def count_and_forget() -> list[weakref.ref[Tensor]]:
    """Parameters of a model whose stored bytes were counted; nothing else refers to it."""
    chat = chat_of("llama")
    assert count_saved_bytes(lambda: chat.model.base_model(input_ids=tokens(), use_cache=False)) > 0
    return [weakref.ref(parameter) for parameter in chat.model.parameters()]


def test_a_counted_graph_is_freed_with_its_model() -> None:
    parameters = count_and_forget()
    gc.collect()
    assert parameters
    assert not [True for parameter in parameters if parameter() is not None]


def test_blocks_are_as_before_after_an_error() -> None:
    chat = tiny_chat.chat()
    blocks = [
        chat.model.get_submodule(chat.architecture.block(at)) for at in range(chat.architecture.n_layers)
    ]
    replaced = blocks[1].forward
    blocks[1].forward = replaced
    try:
        with pytest.raises(RuntimeError, match="stop"), recompute_blocks(chat):
            raise RuntimeError("stop")
        assert ["forward" in block.__dict__ for block in blocks] == [at == 1 for at in range(len(blocks))]
        assert blocks[1].forward is replaced
    finally:
        del blocks[1].forward


def test_nothing_is_recomputed_without_gradients() -> None:
    chat = tiny_chat.chat()
    ran: list[int] = []
    handle = chat.model.get_submodule(chat.architecture.block(0)).mlp.register_forward_hook(
        lambda *_: ran.append(0)
    )
    try:
        with torch.no_grad(), recompute_blocks(chat):
            chat.model(torch.tensor([[1, 2, 3]]))
    finally:
        handle.remove()
    assert ran == [0]


def test_counted_bytes_are_those_of_a_known_graph() -> None:
    x = torch.randn(1000, requires_grad=True)
    assert count_saved_bytes(lambda: (x.exp() * 2.0).exp()) == 2 * 4000
    weight = torch.nn.Parameter(torch.randn(50, 50))
    y = torch.randn(10, 50, requires_grad=True)
    assert count_saved_bytes(lambda: y @ weight.T) == y.numel() * 4


def test_blocks_run_on_the_same_kernels_both_times() -> None:
    chat = chat_of("llama")
    block = chat.model.get_submodule(chat.architecture.block(1))
    enabled: list[bool] = []
    handle = block.self_attn.register_forward_hook(
        lambda *_: enabled.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        gradient(chat, 0)
    finally:
        handle.remove()
    assert enabled == [False, False]
    assert torch.backends.cuda.cudnn_sdp_enabled() is before
