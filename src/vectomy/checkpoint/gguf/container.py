"""A GGUF file as it lies on disk: its metadata, and where each tensor is. Reads the head of the
file, never weights.

The layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), all of it little-endian:
magic, version, how many tensors and how many keys; the keys with their values; of each tensor name,
axes (fastest first), type and offset; then, from the next multiple of the alignment on, the
tensors' data, each at a multiple of it. The head is parsed here because an edit keeps every other
byte.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vectomy.core.errors import CheckpointError
from vectomy.core.packages import describe_missing
from vectomy.core.run_folder import sha256_file

__all__ = ["MAGIC", "GgufFile", "GgufTensor", "bytes_of", "check_installed", "gguf_mark", "is_gguf"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
TEXT, ARRAY = 8, 9
# Of an array as long as a vocabulary nothing but its place is of use here.
KEPT_ITEMS = 64
# Architectures of files beside a language model, and of other models.
PROJECTORS = ("clip", "mmproj")
NO_LANGUAGE_MODELS = {
    **dict.fromkeys(("bert", "nomic-bert", "jina-bert-v2", "modern-bert"), "an encoder"),
    **dict.fromkeys(("t5", "t5encoder"), "an encoder-decoder or a part of one"),
    **dict.fromkeys(("flux", "sd1", "sdxl", "sd3", "wan", "ltxv", "qwen_image"), "a diffusion model"),
    **dict.fromkeys(("wavtokenizer-dec", "whisper"), "an audio model"),
}
NAME_LIMIT = 500
AXES = 4


def check_installed() -> None:
    """Raises CheckpointError without the library that knows GGUF's types and names."""
    if missing := describe_missing("reading or writing a GGUF file", "gguf"):
        raise CheckpointError(missing)


def is_gguf(path: str | Path) -> bool:
    """Whether `path` is meant as one: by its name, since a file that is not there is named by its
    error.
    """
    return str(path).endswith(".gguf") and not Path(path).expanduser().is_dir()


def gguf_mark(path: str | Path) -> dict[str, str]:
    """What an Edit of a model that stands in a GGUF file says of that file, to know it again;
    nothing for another model.
    """
    return {"gguf_sha256": sha256_file(Path(path).expanduser())} if is_gguf(path) else {}


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies: bytes start to end of the file. `shape` is the usual one, slowest axis
    first.
    """

    name: str
    type: str
    """As ggml spells it (Q4_1)."""
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class GgufFile:
    path: Path
    version: int
    keys: int
    """How many metadata keys there are."""
    metadata: Mapping[str, Any] = field(repr=False)
    """By key; of long arrays the first items alone."""
    places: Mapping[str, int] = field(repr=False)
    """By key of a single number, where its bytes begin in the file."""
    keys_end: int = 0
    """Where the metadata ends and the list of tensors begins."""
    alignment: int = ALIGNMENT
    tensors: Mapping[str, GgufTensor] = field(default_factory=dict, repr=False)
    """As the file lists them, which need not be the order of their data."""

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def number(self, key: str) -> int:
        """A size that the architecture's metadata holds. Raises CheckpointError without it."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        if type(value) is not int:
            raise CheckpointError(
                f"{self.path} does not say '{self.architecture}.{key}'; it is no whole model"
            )
        return value

    @classmethod
    def open(cls, path: str | Path, *, model: bool = True) -> GgufFile:
        """Check a file and list it.

        Args:
            model: refuse what is no language model, such as an adapter.

        Raises:
            CheckpointError: no file, no GGUF, another byte order, a part of a split model, no
                language model, or a head that contradicts the file.
        """
        check_installed()
        path = Path(path).expanduser()
        if not path.is_file():
            raise CheckpointError(f"the GGUF file {path} does not exist")
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                opened = _Head(path, data).read()
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} cannot be read as a GGUF file ({error}); download it again"
            ) from None
        if opened.metadata.get("split.count", 1) > 1:
            raise CheckpointError(
                f"{path} is one of several parts of a model; join them with llama-gguf-split --merge"
            )
        reason = explain_gguf(opened) if model else None
        if reason is not None:
            raise CheckpointError(reason)
        return opened


def explain_gguf(file: GgufFile) -> str | None:
    """Why a GGUF file is no language model, by what its metadata says it is; None for one that may
    be.
    """
    kind = str(file.metadata.get("general.type", "model"))
    if file.architecture in PROJECTORS or kind == "mmproj":
        others = sorted(
            other.name
            for other in file.path.parent.glob("*.gguf")
            if other != file.path and "mmproj" not in other.name
        )
        beside = f", such as {others[0]} beside it" if others else ""
        return (
            f"{file.path} is a projector (mmproj: the image or audio part of a multimodal model), which does "
            f"not generate text; give the GGUF file of the language model{beside}"
        )
    if kind == "adapter":
        return (
            f"{file.path} is a LoRA adapter as a GGUF file, not a model; give the model that it was made for"
        )
    if file.architecture in NO_LANGUAGE_MODELS:
        return (
            f"{file.path} is {NO_LANGUAGE_MODELS[file.architecture]} ('{file.architecture}'), which does not "
            "generate text by itself; give a language model"
        )
    return None


class _Head:
    """Reads a head from front to back; every length is held against the file's."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError(f"its head ends early, at byte {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise ValueError(f"a value of unknown kind {kind} at byte {self.at}")
        of, count = self.number("<I"), self.number("<Q")
        if of in SCALARS:
            size = struct.calcsize(SCALARS[of])
            raw = self.take(size * count)
            return [struct.unpack_from(SCALARS[of], raw, size * n)[0] for n in range(min(count, KEPT_ITEMS))]
        kept = []
        for n in range(count):
            if of == TEXT and n >= KEPT_ITEMS:
                self.take(self.number("<Q"))
            else:
                kept.append(self.value(of))
        return kept

    def read(self) -> GgufFile:
        if self.take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self.number("<I")
        if version not in VERSIONS:
            raise ValueError(f"version {version}; known: 2 and 3, little-endian")
        count, keys = self.number("<Q"), self.number("<Q")
        metadata: dict[str, Any] = {}
        places: dict[str, int] = {}
        for _ in range(keys):
            key, kind = self.text(), self.number("<I")
            if kind in SCALARS:
                places[key] = self.at
            metadata[key] = self.value(kind)
        keys_end = self.at
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            raise ValueError(f"an alignment of {alignment!r:.40}")
        rows = [self.tensor() for _ in range(count)]
        start = self.at + -self.at % alignment
        tensors: dict[str, GgufTensor] = {}
        for name, kind, shape, offset in rows:
            size = bytes_of(name, kind, shape)
            if name in tensors or offset % alignment or start + offset + size > len(self.data):
                raise ValueError(
                    f"tensor '{name}' is there twice, out of line, or behind the end of the file"
                )
            tensors[name] = GgufTensor(name, kind, shape, start + offset, start + offset + size)
        return GgufFile(self.path, version, keys, metadata, places, keys_end, alignment, tensors)

    def tensor(self) -> tuple[str, str, tuple[int, ...], int]:
        from gguf import GGMLQuantizationType

        name, axes = self.text(), self.number("<I")
        if not name.isprintable() or not 0 < len(name) <= NAME_LIMIT or not 0 < axes <= AXES:
            raise ValueError(f"a tensor named {name!r:.100} with {axes} axes")
        shape = tuple(self.number("<Q") for _ in range(axes))[::-1]
        kind, offset = self.number("<I"), self.number("<Q")
        if kind not in {known.value for known in GGMLQuantizationType}:
            raise ValueError(f"tensor '{name}' is of type {kind}, which the gguf library here does not know")
        return name, GGMLQuantizationType(kind).name, shape, offset


def bytes_of(name: str, kind: str, shape: tuple[int, ...]) -> int:
    """Raises ValueError for rows that are no whole blocks of the type."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if shape[-1] % block:
        raise ValueError(f"tensor '{name}' has rows of {shape[-1]}, no multiple of the {block} of {kind}")
    return math.prod(shape) // block * size
