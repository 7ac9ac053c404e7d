"""Read single tensors and a fingerprint from a checked folder."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from vectomy.artifacts import canonical_json, hash_of, sha256_file
from vectomy.checkpoint.index import Checkpoint, TensorEntry
from vectomy.errors import CheckpointError

__all__ = ["TORCH_DTYPES", "fingerprint", "read_tensor", "sidecar_digest"]

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# How much of each tensor the fingerprint reads, at its start, its middle and its end.
SAMPLE = 4096


def read_tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """One tensor, in its own dtype.

    Raises:
        CheckpointError: no such tensor, or a dtype that cannot be edited (packed or quantised weights).
    """
    entry = checkpoint.tensors.get(name)
    if entry is None:
        raise CheckpointError(f"tensor '{name}' is not in {checkpoint.path}")
    if entry.dtype not in TORCH_DTYPES:
        raise CheckpointError(
            f"tensor '{name}' is stored as {entry.dtype}, which cannot be edited; use the {'/'.join(TORCH_DTYPES)} version"
        )
    if entry.start == entry.end:
        return torch.empty(entry.shape, dtype=TORCH_DTYPES[entry.dtype])
    data = bytearray(_bytes(checkpoint, entry, entry.start, entry.end))
    return torch.frombuffer(data, dtype=TORCH_DTYPES[entry.dtype]).reshape(entry.shape)


def _bytes(checkpoint: Checkpoint, entry: TensorEntry, start: int, end: int) -> bytes:
    with (checkpoint.path / entry.shard).open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def fingerprint(checkpoint: Checkpoint) -> str:
    """Which base model this is: a sha256 over every tensor's name, dtype and shape and three samples of its bytes.

    It costs kilobytes a tensor rather than the whole model, changes with any fine-tune, and does not depend on how
    the tensors are split into files.
    """
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        entry = checkpoint.tensors[name]
        digest.update(canonical_json([name, entry.dtype, list(entry.shape)]).encode())
        length = entry.end - entry.start
        for at in sorted({0, max(0, length // 2 - SAMPLE // 2), max(0, length - SAMPLE)}):
            digest.update(_bytes(checkpoint, entry, entry.start + at, min(entry.start + at + SAMPLE, entry.end)))
    return digest.hexdigest()


def sidecar_digest(checkpoint: Checkpoint) -> str:
    """A hash over config.json and the files beside the weights (tokenizer, template, generation settings)."""
    return hash_of({name: sha256_file(checkpoint.path / name) for name in ("config.json", *checkpoint.sidecars)})
