"""A checkpoint's weights under the names and shapes that transformers loads: packed ones (fp8,
MXFP4, GPTQ, AWQ) are decoded when they are read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vectomy.checkpoint import Checkpoint, read_stored
from vectomy.checkpoint.quantization import PackedWeight, companions, decode, locate
from vectomy.core.errors import CheckpointError, ModelError
from vectomy.models.precision import FLOATS

__all__ = ["DecodedWeight", "StoredWeights"]

# What is read as it is stored.
UNPACKED = {*FLOATS, "BOOL", "I16", "I32", "I64"}


class StoredWeights:
    """Finds and reads the weights of a checkpoint, one at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        owners = companions(checkpoint)
        self.names = list(dict.fromkeys(owners.get(name, name) for name in checkpoint.tensors))
        self._packed: dict[str, PackedWeight] = {}

    def check(self, name: str) -> None:
        """Raises ModelError: the weight is packed in a way that is not decoded here."""
        entry = self.checkpoint.tensors.get(name)
        if entry is not None and entry.dtype in UNPACKED:
            return
        try:
            self._packed[name] = locate(self.checkpoint, name)
        except CheckpointError as error:
            raise ModelError(
                f"{error}; of packed weights only fp8, MXFP4, GPTQ and AWQ can be read block by block: load "
                "the model whole, or use its bfloat16 version"
            ) from None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that `read` gives."""
        packed = self._packed.get(name)
        if packed is None:
            return self.checkpoint.tensors[name].shape
        *lead, rows, columns = packed.shape
        return (*lead, columns, rows) if packed.is_transposed else packed.shape

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A weight as it is stored, or decoded to `dtype` if it is packed."""
        packed = self._packed.get(name)
        if packed is None:
            return read_stored(self.checkpoint, name)
        parts = {part: read_stored(self.checkpoint, part) for part in packed.parts}
        value = decode(packed, parts).to(dtype)
        return value.mT.contiguous() if packed.is_transposed else value


class DecodedWeight:
    """A weight that is read and decoded when it is asked for its values, as the loader of
    transformers asks for a slice of a file.
    """

    def __init__(self, stored: StoredWeights, name: str, dtype: torch.dtype) -> None:
        stored.check(name)
        self._stored, self._name, self._dtype = stored, name, dtype

    def __getitem__(self, index: object) -> Tensor:
        value: Tensor = self._stored.read(self._name, self._dtype)[index]
        return value

    def get_shape(self) -> list[int]:
        return list(self._stored.shape(self._name))
