"""Small safetensors files (an Edit, directions, an adapter), read whole."""

from __future__ import annotations

from pathlib import Path

import safetensors
from torch import Tensor

__all__ = ["read_tensors"]


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and its metadata.

    The tensors are copies. The library's own are views of the mapped file, which Windows then
    neither replaces nor removes, and which change with it elsewhere.

    Raises:
        OSError: the file cannot be read.
        SafetensorError: it is no safetensors file.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name).clone() for name in names}, dict(file.metadata() or {})
