"""K-quants by ggml's own quantiser, and which type each tensor of a file gets.

The gguf library makes no k-quants. Two programs that have ggml are used where they are there:
`llama-quantize` of llama.cpp, and the package xllamacpp, whose library exports
`ggml_quantize_chunk` (ggml/include/ggml.h). The mixes are those that llama.cpp makes of most dense
models (src/llama-quant.cpp, llama_tensor_get_type): the head, attention values and MLP outputs of
some layers, and joint queries, keys and values of all layers get more bits. What it does otherwise
for Falcon, the Llama of 70B and models of eight experts is not followed; `llama-quantize`, where it
is here, follows its own rules.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vectomy.checkpoint.gguf.block_rounding import StoredBlocks, store_raw
from vectomy.checkpoint.gguf.container import GgufTensor
from vectomy.core.errors import CheckpointError

__all__ = [
    "K_QUANTS",
    "LLAMA_QUANTIZE",
    "check_quantizer",
    "ggml_library",
    "mixed_type",
    "quantize_with_ggml",
    "store_with_ggml",
]

K_QUANTS: dict[str, int] = {"q6_k": 18, "q5_k_m": 17, "q4_k_m": 15}
"""By name, llama.cpp's number of the file type (general.file_type)."""

# (usual type, type of the tensors that get more bits).
MIXES = {"q6_k": ("Q6_K", "Q6_K"), "q5_k_m": ("Q5_K", "Q6_K"), "q4_k_m": ("Q4_K", "Q6_K")}
# Rows that are no multiple of 256 take a type with blocks of 32, as in llama.cpp.
SMALLER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
WIDE = 256
# Names of experts begin like those of a plain MLP.
FINER = r"blk\.(\d+)\.(?:attn_v|ffn_down\w*)\.weight"
JOINT = {"q6_k": "Q6_K", "q5_k_m": "Q6_K", "q4_k_m": "Q5_K"}
"""Of attn_qkv."""

LLAMA_QUANTIZE = "llama-quantize"


def check_quantizer(quant: str) -> None:
    """Raises CheckpointError where nothing on this machine makes k-quants."""
    if quant in K_QUANTS and shutil.which(LLAMA_QUANTIZE) is None and ggml_library() is None:
        raise CheckpointError(
            f"{quant} is made by ggml's quantiser, and neither {LLAMA_QUANTIZE} (of llama.cpp, in the PATH) "
            "nor the package xllamacpp is here: pip install xllamacpp, or choose --quant q8_0"
        )


def mixed_type(tensor: GgufTensor, quant: str, layers: int, tied: bool) -> str | None:
    """The type of a tensor in a k-quant file; None where it stays as it is.

    Args:
        layers: the number of blocks of the model.
        tied: the head is the embedding.
    """
    if len(tensor.shape) < 2 or not tensor.name.endswith(".weight"):
        return None
    if "ffn_gate_inp" in tensor.name or tensor.name.startswith(("position_embd", "token_types")):
        return None
    usual, finer = MIXES[quant]
    kind = usual
    if tensor.name == "output.weight" or (tied and tensor.name == "token_embd.weight"):
        kind = "Q6_K"
    elif re.fullmatch(r"blk\.\d+\.attn_qkv\.weight", tensor.name):
        kind = JOINT[quant]
    elif block := re.fullmatch(FINER, tensor.name):
        kind = finer if _gets_more(int(block[1]), layers) else usual
    if tensor.shape[-1] % WIDE:
        kind = SMALLER[kind]
    return kind if tensor.shape[-1] % 32 == 0 else None


def _gets_more(layer: int, count: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth of the layers, and every third."""
    return layer < count // 8 or layer >= 7 * count // 8 or (layer - count // 8) % 3 == 2


@cache
def ggml_library() -> Any | None:
    """The library of xllamacpp; None where it is not installed, or exports no quantiser."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        return None
    for file in sorted(Path(spec.origin).parent.glob("xllamacpp*.so")) + sorted(
        Path(spec.origin).parent.glob("xllamacpp*.pyd")
    ):
        try:
            library = ctypes.CDLL(str(file))
            library.ggml_quantize_chunk.restype = ctypes.c_size_t
            library.ggml_quantize_chunk.argtypes = (
                ctypes.c_int,
                ctypes.c_void_p,
                ctypes.c_void_p,
                ctypes.c_int64,
                ctypes.c_int64,
                ctypes.c_int64,
                ctypes.c_void_p,
            )
        except (OSError, AttributeError):
            continue
        return library
    return None


def quantize_with_ggml(values: Float[Tensor, "rows columns"], kind: str) -> Any:
    """Rows as bytes of a type (uint8, [rows, bytes of a row]), by ggml's own quantiser.

    Raises:
        CheckpointError: there is no ggml, or a row is no whole number of blocks.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    library = ggml_library()
    if library is None:
        raise CheckpointError(f"{kind} is made by ggml's quantiser: pip install xllamacpp, or choose q8_0")
    rows, columns = values.shape
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if columns % block:
        raise CheckpointError(f"rows of {columns} values are no whole blocks of {kind} ({block}); use q8_0")
    numbers = np.ascontiguousarray(values.float().numpy())
    made = np.empty((rows, columns // block * size), np.uint8)
    written = library.ggml_quantize_chunk(
        int(GGMLQuantizationType[kind]), numbers.ctypes.data, made.ctypes.data, 0, rows, columns, None
    )
    if written != math.prod(made.shape):
        raise CheckpointError(f"ggml wrote {written} bytes of {kind} instead of {math.prod(made.shape)}")
    return made


def store_with_ggml(kind: str) -> Callable[..., StoredBlocks]:
    """Stores whatever comes in a type of its own choice, by ggml's quantiser."""

    def store(raw: Any, _: str, old: Tensor, new: Tensor, vectors: str) -> StoredBlocks:
        return store_raw(quantize_with_ggml(new, kind), kind, old, new, vectors)

    return store
