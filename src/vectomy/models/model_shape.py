"""The sizes of a model that its memory and time depend on, from config.json alone."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from vectomy.architecture import Architecture, architecture_of
from vectomy.checkpoint.quantization import packed_width, stays_packed
from vectomy.core.config import LoadIn
from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject
from vectomy.models.block_sizes import BlockSizes, count_experts
from vectomy.models.loading import loading
from vectomy.models.memory import count_weight_bytes
from vectomy.models.weights import auto_class, read_config_in

__all__ = ["ModelShape", "build_on_meta", "count_multiplied"]


@dataclass(frozen=True)
class ModelShape:
    """Counts of a model.

    `norms` and `head_norms` are those of one block: over the stream, and over each head's queries
    and keys. `multiplied` counts the weights of the blocks that every token is multiplied with.
    """

    sizes: BlockSizes
    vocab: int
    tied: bool
    norms: int
    head_norms: int
    parameters: int
    in_blocks: int
    """Parameters of all blocks together, and of the largest one."""
    in_largest_block: int
    multiplied: float
    experts: tuple[int, int]
    """Of a token, and of a block; (0, 0) without experts."""
    itemsize: int
    """Bytes of a number that the model computes with."""
    bytes: int
    """Of the weights, as they are stored; `loaded_bytes` as they lie in memory."""
    loaded_bytes: int
    largest_writer: int
    """Parameters of the largest tensor that an edit changes in a block."""
    load_in: LoadIn | None = None
    """How the weights are quantised in memory (`--load-in`)."""

    @classmethod
    def of(
        cls, model: Any, stored: int | None = None, architecture: Architecture | None = None
    ) -> ModelShape:
        """The counts of a model of transformers, which may lie on the meta device.

        Args:
            architecture: the model's own unless given.
            stored: bytes of the weights, where they are known better than from the configuration.
        """
        config = model.config
        text, arch = config.get_text_config(), architecture or architecture_of(model)
        blocks = _by_block(arch)
        parameters = sum(map(math.prod, arch.shapes.values()))
        if arch.tied and arch.head in arch.shapes:
            parameters -= math.prod(arch.shapes[arch.head])
        inside = [sum(map(math.prod, shapes.values())) for shapes in blocks]
        middle = blocks[len(blocks) // 2]
        itemsize = model.dtype.itemsize
        return cls(
            sizes=BlockSizes.of(text),
            vocab=arch.vocab or int(text.vocab_size),
            tied=arch.tied,
            norms=sum(tuple(shape) == (arch.d_model,) for name, shape in middle.items() if "norm" in name),
            head_norms=sum(len(shape) == 1 for name, shape in middle.items() if _is_head_norm(name)),
            parameters=parameters,
            in_blocks=sum(inside),
            in_largest_block=max(inside),
            multiplied=count_multiplied(arch, text),
            experts=count_experts(text),
            itemsize=itemsize,
            bytes=stored or _stored_bytes(config, parameters, sum(inside), itemsize),
            loaded_bytes=_loaded_bytes(config, parameters, sum(inside), itemsize),
            largest_writer=max(
                math.prod(arch.shapes[name])
                for writer in arch.writers
                if writer.layer is not None
                for name in writer.tensors
            ),
        )

    @cached_property
    def largest_block(self) -> int:
        """Bytes of the largest block, as it is stored."""
        return round(self.in_largest_block * self.bytes / self.parameters)

    def in_dtype(self, itemsize: int) -> ModelShape:
        """The shape of the model when it is loaded in a dtype of so many bytes."""
        return replace(self, itemsize=itemsize, loaded_bytes=self.loaded_bytes * itemsize // self.itemsize)

    def quantise(self, load_in: LoadIn, architecture: Architecture) -> ModelShape:
        """The shape of the model when its weights are quantised in memory."""
        size = count_weight_bytes(architecture, self.itemsize, load_in)
        return replace(self, load_in=load_in, loaded_bytes=size)

    @property
    def in_full(self) -> ModelShape:
        """The shape of the same model in full precision."""
        if self.load_in is None:
            return self
        return replace(self, load_in=None, loaded_bytes=self.parameters * self.itemsize)

    def to_json(self) -> JsonObject:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> ModelShape:
        """Raises ArtifactError: it was written by another version, or changed by hand."""
        try:
            given = {**value, "sizes": BlockSizes(**value["sizes"]), "experts": tuple(value["experts"])}
            return cls(**given)
        except (TypeError, KeyError):
            raise ArtifactError(
                "the counts of the model in summary.json are of another version; run the command again"
            ) from None

    @property
    def head_parameters(self) -> int:
        return self.vocab * self.sizes.d_model


def build_on_meta(folder: Path, trust_remote_code: bool = False) -> Any:
    """The model of a folder's config.json on the meta device: modules and shapes, no numbers.

    Raises:
        ModelError: transformers cannot build it.
    """
    with loading(str(folder), folder), torch.device("meta"):
        config = read_config_in(folder, trust_remote_code)
        dtype = config.dtype or config.get_text_config().dtype or torch.bfloat16
        model = auto_class(config).from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    return model.eval().requires_grad_(False)


def count_multiplied(arch: Architecture, config: Any) -> float:
    """Weights that every token is multiplied with: matrices of the blocks. Of the experts, only the
    share that a token is sent to, or none where the configuration does not say it.
    """
    chosen, experts = count_experts(config)
    share = chosen / experts if chosen and experts else 0.0
    sizes = [
        (name, shape, math.prod(shape))
        for shapes in _by_block(arch)
        for name, shape in shapes.items()
        if len(shape) >= 2
    ]
    inside = sum(size for name, shape, size in sizes if ".experts." in name or len(shape) > 2)
    return sum(size for _, _, size in sizes) - (1 - share) * inside


def _by_block(arch: Architecture) -> list[Mapping[str, Sequence[int]]]:
    """Names and shapes of the tensors of each block."""
    block = re.compile(re.escape(arch.stored(f"{arch.family.blocks}.")) + r"(\d{1,6})\.")
    blocks: dict[int, dict[str, Sequence[int]]] = defaultdict(dict)
    for name, shape in arch.shapes.items():
        if match := block.match(name):
            blocks[int(match[1])][name] = shape
    return [blocks[layer] for layer in sorted(blocks)]


def _is_head_norm(name: str) -> bool:
    return re.search(r"\b[qk]_(layer)?norm\.weight$", name) is not None


def _stored_bytes(config: Any, parameters: int, inside: int, itemsize: int) -> int:
    """Quantised weights are those of the blocks; embedding and head stay as they are."""
    quantised = getattr(config, "quantization_config", None)
    if not quantised:
        return parameters * itemsize
    width = packed_width(quantised) or itemsize
    return round(inside * width + (parameters - inside) * itemsize)


def _loaded_bytes(config: Any, parameters: int, inside: int, itemsize: int) -> int:
    """Formats that torch itself does not multiply are decoded on loading."""
    stored = _stored_bytes(config, parameters, inside, itemsize)
    quantised = getattr(config, "quantization_config", None)
    return stored if quantised and stays_packed(quantised) else parameters * itemsize
