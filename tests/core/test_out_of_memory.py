"""Memory that ran out is told from everything else that fails, on whatever device."""

from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError

from vectomy.core.errors import ModelError
from vectomy.core.out_of_memory import is_out_of_memory

TIER = "unit"

RAN_OUT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 110.00 MiB."),
    torch.OutOfMemoryError("no text that says so"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.5 GB)"),
    OSError(12, "Cannot allocate memory"),
    SafetensorError("Error while deserializing header: IO error: Cannot allocate memory (os error 12)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", RAN_OUT, ids=lambda error: f"{type(error).__name__} {str(error)[:20]}")
def test_memory_that_ran_out(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x8 and 4x8)"),
        ValueError("out of memory is what a template may say"),
        ModelError("the model does not fit: out of memory"),
        SafetensorError("Error while deserializing header: header too large"),
        OSError(28, "No space left on device"),
    ],
)
def test_anything_else(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_what_torch_raises_on_this_processor() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
