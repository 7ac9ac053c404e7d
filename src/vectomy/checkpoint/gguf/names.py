"""What GGUF calls the tensors of a model, by the gguf library's own map; and a GGUF file seen as a
model folder.

Seen so, its tensors have the names that transformers gives them, and everything that is known of
architectures (writers, norms, what only reads) holds for it as well. In the architectures listed
here writers are stored as transformers has them; queries and keys, whose rows the converter puts in
another order, are no writers.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vectomy.architecture import FAMILIES, Family
from vectomy.architecture.readers import READERS
from vectomy.checkpoint.gguf.blocks import PLAIN
from vectomy.checkpoint.gguf.container import GgufFile, check_installed
from vectomy.checkpoint.index import Checkpoint
from vectomy.checkpoint.safetensors_header import TensorEntry
from vectomy.core.errors import ArchitectureError, CheckpointError

__all__ = ["ARCHITECTURES", "GgufView", "as_checkpoint", "gguf_architecture", "gguf_name"]

ARCHITECTURES: Mapping[str, str] = {
    "arcee": "arcee",
    "granite": "granite",
    "llama": "llama",
    "mistral": "llama",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "starcoder2": "starcoder2",
}
"""By transformers' model type, what GGUF calls the architecture. Of these llama.cpp's converter
changes queries and keys at most. Not here: Gemma, whose gains it stores plus 1; Cohere, whose head
GGUF always ties; models with experts, which it stacks.
"""

# Frequencies of positions, which transformers computes from its configuration.
COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True)
class GgufView:
    """A file as a folder: names and shapes. Matrices are entered as float32, whatever they are
    stored as, and must be read from the file; vectors can be read as from any checkpoint.
    """

    checkpoint: Checkpoint
    names: Mapping[str, str]
    """GGUF's name of each tensor, by transformers'."""


def gguf_architecture(model_type: str) -> str:
    """Raises ArchitectureError for a type whose names in GGUF are not held to anything here."""
    architecture = ARCHITECTURES.get(model_type)
    if architecture is None:
        raise ArchitectureError(
            f"GGUF files of {model_type} models can neither be edited nor get an adapter (known: "
            f"{', '.join(ARCHITECTURES)}); apply the edit to the model folder, with --as gguf"
        )
    return architecture


def gguf_name(model_type: str, layers: int, name: str) -> str:
    """What a GGUF file calls a tensor. Raises ArchitectureError for one that it has no name for."""
    check_installed()
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    wanted = gguf_architecture(model_type)
    arch = next(arch for arch, text in MODEL_ARCH_NAMES.items() if text == wanted)
    result = get_tensor_name_map(arch, layers).get_name(name, try_suffixes=(".weight", ".bias"))
    if result is None:
        raise ArchitectureError(
            f"GGUF has no name for '{name}' of a {model_type} model; bake the edit instead"
        )
    return str(result)


def as_checkpoint(file: GgufFile, model_type: str) -> GgufView:
    """A model of the given type as it stands in `file`.

    Raises:
        ArchitectureError: the file holds another architecture, or this one is not known here.
    """
    wanted = gguf_architecture(model_type)
    if file.architecture != wanted:
        raise ArchitectureError(
            f"{file.path} holds an architecture '{file.architecture}', where a {model_type} model is "
            f"'{wanted}'; give the model that the edit was made for"
        )
    family = FAMILIES[model_type]
    names: dict[str, str] = {}
    for stored in file.tensors:
        if stored not in COMPUTED:
            names.setdefault(_transformers_name(stored, wanted, family), stored)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{file.path} holds no 'token_embd.weight'; it is no whole model")
    config: dict[str, Any] = {
        "model_type": model_type,
        "hidden_size": file.number("embedding_length"),
        "num_hidden_layers": file.number("block_count"),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    entries = {name: _entry(file, name, stored) for name, stored in names.items()}
    return GgufView(Checkpoint(file.path.parent, config, (), None, (), (), entries), names)


def _entry(file: GgufFile, name: str, stored: str) -> TensorEntry:
    tensor = file.tensors[stored]
    dtype = tensor.type if len(tensor.shape) == 1 and tensor.type in PLAIN else "F32"
    return TensorEntry(name, file.path.name, dtype, tensor.shape, tensor.start, tensor.end)


def _transformers_name(stored: str, architecture: str, family: Family) -> str:
    """Of the names that the library takes for the stored one, that of the family; without one, the
    stored name, which then counts as unknown.
    """
    slots = [slot.live_weight for slot in family.slots]
    outside = [f"{family.head}.weight", *(slot.live_weight for slot in family.embeddings)]
    base, _, leaf = stored.rpartition(".")
    for pattern, layer in _patterns(base, architecture):
        if layer is None:
            name = f"{pattern}.{leaf}"
            if name in outside or name.startswith(f"{family.blocks.rpartition('.')[0]}."):
                return name
            continue
        inside = pattern.removeprefix(f"{family.blocks}.{{bid}}.")
        if inside == pattern:
            continue
        name = f"{inside}.{leaf}"
        if f"{inside}.weight" in slots or any(fnmatch.fnmatchcase(name, reader) for reader in READERS):
            return f"{family.blocks}.{layer}.{name}"
    return stored


def _patterns(base: str, architecture: str) -> Iterator[tuple[str, str | None]]:
    """Names that mean the same as `base` elsewhere, with the layer that takes the place of {bid} in
    them.
    """
    from gguf import MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES, TensorNameMap

    block = re.fullmatch(r"blk\.(\d{1,6})\.(.+)", base)
    shape = base if block is None else f"blk.{{bid}}.{block[2]}"
    arch = next(arch for arch, text in MODEL_ARCH_NAMES.items() if text == architecture)
    for config in (TensorNameMap.mappings_cfg, TensorNameMap.block_mappings_cfg):
        for tensor, patterns in config.items():
            if TENSOR_NAMES[tensor] == shape and tensor in MODEL_TENSORS[arch]:
                yield from ((pattern, block and block[1]) for pattern in patterns)
