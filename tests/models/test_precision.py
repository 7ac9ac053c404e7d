"""A model computes in its own dtype where the processor can, and in float32 where that would be
eight times slower.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import tiny_chat
import torch

from vectomy.checkpoint import Checkpoint
from vectomy.models import precision
from vectomy.models.precision import computes, working_dtype

TIER = "unit"

PLAIN = {"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    ("dtype", "capabilities", "expected"),
    [
        (torch.bfloat16, PLAIN, False),
        (torch.bfloat16, {**PLAIN, "avx512_bf16": True}, True),
        (torch.bfloat16, {**PLAIN, "amx_bf16": True}, True),
        (torch.float16, {**PLAIN, "avx512_bf16": True}, False),
        (torch.float16, {**PLAIN, "amx_fp16": True}, True),
        (torch.bfloat16, {"architecture": "aarch64"}, True),
        (torch.bfloat16, {}, True),
    ],
)
def test_what_a_processor_computes_in(
    dtype: torch.dtype, capabilities: dict[str, Any], expected: bool
) -> None:
    assert computes(dtype, capabilities) is expected


@pytest.mark.chat
@pytest.mark.parametrize(
    ("asked", "stored", "device", "packed", "room", "expected"),
    [
        ("auto", torch.bfloat16, "cpu", False, True, torch.float32),
        ("auto", torch.bfloat16, "cpu", False, False, None),
        ("auto", torch.bfloat16, "cpu", True, True, None),
        ("auto", torch.bfloat16, "auto", False, True, None),
        ("auto", torch.float32, "cpu", False, True, None),
        ("bfloat16", torch.float32, "cpu", False, True, torch.bfloat16),
    ],
)
def test_the_dtype_is_widened_only_where_it_must_be_and_can_be(
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    stored: torch.dtype,
    device: str,
    packed: bool,
    room: bool,
    expected: torch.dtype | None,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: PLAIN)
    monkeypatch.setattr(precision, "fits", lambda checkpoint, times: room)
    config = SimpleNamespace(dtype=stored, **({"quantization_config": {}} if packed else {}))
    checkpoint = Checkpoint.open(tiny_chat.folder())
    assert working_dtype(asked, config, checkpoint, device) == expected
