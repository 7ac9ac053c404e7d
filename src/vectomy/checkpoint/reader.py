"""Read single tensors and a fingerprint from a checked folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from vectomy.checkpoint.index import Checkpoint
from vectomy.checkpoint.ranges import read_into
from vectomy.checkpoint.safetensors_header import TensorEntry
from vectomy.core.errors import CheckpointError
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import canonical_json, hash_of, sha256_file

__all__ = [
    "STORED_DTYPES",
    "TORCH_DTYPES",
    "fingerprint",
    "fingerprint_tensors",
    "holds_equal",
    "read_stored",
    "read_tensor",
    "sidecar_digest",
    "tensor_hashes",
]

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What torch can hold as it is stored; sub-byte formats of the safetensors list (F4, F6) have no
# dtype of that shape.
STORED_DTYPES = TORCH_DTYPES | {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}
# How much of each tensor the fingerprint reads, at its start, its middle and its end.
SAMPLE = 4096
# How much of a tensor is in memory while it is hashed.
BLOCK = 1 << 22


def read_tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """One tensor, in its own dtype.

    Raises:
        CheckpointError: no such tensor, or a dtype that cannot be edited (packed or quantised
            weights).
    """
    entry = checkpoint.tensors.get(name)
    if entry is None:
        raise CheckpointError(f"tensor '{name}' is not in {checkpoint.path}")
    if entry.dtype not in TORCH_DTYPES:
        raise CheckpointError(
            f"tensor '{name}' is stored as {entry.dtype}, which cannot be edited; use the "
            f"{'/'.join(TORCH_DTYPES)} version"
        )
    return read_stored(checkpoint, name)


def read_stored(
    checkpoint: Checkpoint, name: str, first: int = 0, last: int | None = None, into: Tensor | None = None
) -> Tensor:
    """One tensor as it is stored, packed or quantised ones too; with `first` and `last` those rows
    alone (axis 0).

    `into` is memory of the very length (bytes) to read to; the tensor is a view of it.

    Raises:
        CheckpointError: no such tensor, a dtype that torch has not, or a file that ended early.
    """
    entry = checkpoint.tensors.get(name)
    if entry is None:
        raise CheckpointError(f"tensor '{name}' is not in {checkpoint.path}")
    if entry.dtype not in STORED_DTYPES:
        raise CheckpointError(
            f"tensor '{name}' is stored as {entry.dtype}, which torch cannot hold; use another version"
        )
    start, end, shape = entry.start, entry.end, entry.shape
    if first or last is not None:
        last = shape[0] if last is None else last
        row = (end - start) // max(1, shape[0])
        start, end, shape = start + first * row, start + last * row, (last - first, *shape[1:])
    data = torch.empty(end - start, dtype=torch.uint8) if into is None else into
    if start < end:
        _read_into(memoryview(data.numpy()), checkpoint, entry, start)
    return data.view(STORED_DTYPES[entry.dtype]).reshape(shape)


def _read_into(view: memoryview, checkpoint: Checkpoint, entry: TensorEntry, start: int) -> None:
    path = checkpoint.path / entry.shard
    with path.open("rb", buffering=0) as file:
        if read_into(file, view, start) < len(view):
            raise CheckpointError(
                f"shard {path} became shorter while it was read; is something else writing to it?"
            )


def _bytes(checkpoint: Checkpoint, entry: TensorEntry, start: int, end: int) -> bytes:
    with (checkpoint.path / entry.shard).open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def holds_equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Whether two tensors have the same values, or only one of the two is stored. Reads until they
    differ.
    """
    entry, twin = (checkpoint.tensors.get(name) for name in (first, second))
    if entry is None or twin is None:
        return True
    if (entry.dtype, entry.shape) != (twin.dtype, twin.shape):
        return False
    step = max(1, BLOCK // max(1, (entry.end - entry.start) // max(1, entry.shape[0])))
    return all(
        torch.equal(
            *(read_stored(checkpoint, name, row, min(row + step, entry.shape[0])) for name in (first, second))
        )
        for row in range(0, entry.shape[0], step)
    )


def fingerprint(checkpoint: Checkpoint) -> str:
    """Which base model this is: a sha256 over every tensor's name, dtype and shape and three
    samples of its bytes.

    It costs kilobytes a tensor rather than the whole model, changes with any fine-tune, and does
    not depend on how the tensors are split into files.
    """
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        entry = checkpoint.tensors[name]
        digest.update(canonical_json([name, entry.dtype, list(entry.shape)]).encode())
        for start, end in _sampled(entry.end - entry.start):
            digest.update(_bytes(checkpoint, entry, entry.start + start, entry.start + end))
    return digest.hexdigest()


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The fingerprint of a checkpoint that holds these tensors under these names."""
    names = {dtype: name for name, dtype in STORED_DTYPES.items()}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach()
        digest.update(canonical_json([name, names[value.dtype], list(value.shape)]).encode())
        for start, end in _sampled(value.numel() * value.itemsize):
            digest.update(_bytes_of(value, start, end))
    return digest.hexdigest()


def _sampled(length: int) -> list[tuple[int, int]]:
    """The bytes that a fingerprint reads of a tensor of so many."""
    offsets = sorted({0, max(0, length // 2 - SAMPLE // 2), max(0, length - SAMPLE)})
    return [(offset, min(offset + SAMPLE, length)) for offset in offsets]


def _bytes_of(value: Tensor, start: int, end: int) -> bytes:
    """Some bytes of a tensor in memory, as a file would hold it."""
    first, last = start // value.itemsize, -(-end // value.itemsize)
    numbers = value.reshape(-1)[first:last].cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return numbers[start - first * value.itemsize : end - first * value.itemsize]


def tensor_hashes(checkpoint: Checkpoint, progress: Progress = silent) -> dict[str, str]:
    """sha256 of every tensor's bytes as they are stored, by name; reads all weights once, in file
    order.
    """
    hashes: dict[str, str] = {}
    with progress(
        "hashing", sum(entry.end - entry.start for entry in checkpoint.tensors.values()), "bytes"
    ) as update:
        for shard in checkpoint.shards:
            with (checkpoint.path / shard.name).open("rb") as file:
                for entry in shard.tensors:
                    hashes[entry.name] = _sha256(file, entry, update)
    return {name: hashes[name] for name in sorted(hashes)}


def _sha256(file: BinaryIO, entry: TensorEntry, update: Callable[[int], None]) -> str:
    digest, offset = hashlib.sha256(), entry.start
    file.seek(offset)
    while offset < entry.end:
        block = file.read(min(BLOCK, entry.end - offset))
        if not block:
            raise CheckpointError(
                f"shard {entry.shard} became shorter while it was read; is something else writing to it?"
            )
        digest.update(block)
        update(len(block))
        offset += len(block)
    return digest.hexdigest()


def sidecar_digest(checkpoint: Checkpoint) -> str:
    """A hash over config.json and the files beside the weights (tokenizer, template, generation
    settings).
    """
    return hash_of(
        {name: sha256_file(checkpoint.path / name) for name in ("config.json", *checkpoint.sidecars)}
    )
