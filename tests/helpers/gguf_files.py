"""GGUF files of tiny models, written by the gguf library alone, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from tiny import Tiny
from torch import Tensor

# Where GGUF has another name than transformers.
ARCHITECTURES = {"mistral": "llama", "olmo3": "olmo2"}
# Rows of 64 are whole blocks of 32.
SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}


def state(folder: Path) -> dict[str, Tensor]:
    return {
        name: value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def stored_name(architecture: str, layers: int, name: str) -> str:
    arch = next(arch for arch, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    found = gguf.get_tensor_name_map(arch, layers).get_name(name, try_suffixes=(".weight", ".bias"))
    assert found, name
    return found


def write_gguf(tiny: Tiny, path: Path, kind: str = "F32", architecture: str = "") -> dict[str, str]:
    """Matrices in one type, vectors in float32; GGUF's name of each tensor by transformers'."""
    config = tiny.model.config
    architecture = architecture or ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_array("tokenizer.ggml.tokens", [f"word {n}" for n in range(config.vocab_size)])
    writer.add_array("general.languages", ["en", "de"])
    writer.add_uint32("general.file_type", 0)
    names = {}
    for name, value in state(tiny.folder).items():
        names[name] = stored_name(architecture, config.num_hidden_layers, name)
        qtype = GGMLQuantizationType["F32" if value.ndim == 1 else kind]
        writer.add_tensor(names[name], quantize(value.float().numpy(), qtype), raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return names


def read(path: Path) -> Mapping[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values(tensor: gguf.ReaderTensor) -> Tensor:
    shape = tuple(int(size) for size in tensor.shape[::-1])
    return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)).reshape(
        shape
    )
