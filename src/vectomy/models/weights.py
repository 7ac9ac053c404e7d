"""A model without weights, and its checkpoint's weights, loaded and unloaded module by module.

Names and shapes on disk can differ from the live model (experts are stored apart and fused when
loaded, prefixes change). So the loader of transformers itself (core_model_loading) loads the
tensors, one module at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from vectomy.architecture.missing_tensor import explain_missing
from vectomy.architecture.model_architecture import OTHER_CONFIG
from vectomy.checkpoint import Checkpoint, read_stored
from vectomy.core.errors import CheckpointError, ModelError
from vectomy.core.quoted_error import quote_error
from vectomy.models.precision import stored_dtype, working_dtype
from vectomy.models.quiet import quiet
from vectomy.models.stored_weights import StoredWeights

__all__ = [
    "Page",
    "Weights",
    "auto_class",
    "check_class",
    "is_empty",
    "read_config_in",
    "read_model_config",
    "skeleton",
]

# What torch itself computes; None is the default of the model.
BUILT_IN_ATTENTION = (None, "eager", "sdpa")


def auto_class(config: Any) -> Any:
    """The auto class of transformers that loads a model: for text, or for text with images."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    alone = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or hasattr(config, "auto_map")
    return AutoModelForCausalLM if alone else AutoModelForImageTextToText


def read_model_config(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    """`read_config_in` of a checkpoint's folder."""
    return read_config_in(checkpoint.path, trust_remote_code)


def read_config_in(folder: Path, trust_remote_code: bool) -> Any:
    """config.json as transformers reads it, with what would not run here left to its defaults: an
    attention kernel that is a package of its own (the results are the same without it), and a
    padding token beyond the embedding.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    if config._attn_implementation not in BUILT_IN_ATTENTION:
        config._attn_implementation = None
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        pad, vocab = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
        if isinstance(pad, int) and isinstance(vocab, int) and not -vocab <= pad < vocab:
            part.pad_token_id = None
    return config


def skeleton(checkpoint: Checkpoint, dtype: str, trust_remote_code: bool, device: str = "cpu") -> Any:
    """The model of config.json without weights: parameters on the meta device, buffers (rotary
    tables) with values.
    """
    from accelerate import init_empty_weights

    config = read_model_config(checkpoint, trust_remote_code)
    wanted = working_dtype(dtype, config, checkpoint, device, whole=False) or stored_dtype(config, checkpoint)
    with init_empty_weights(include_buffers=False):
        model = auto_class(config).from_config(config, dtype=wanted, trust_remote_code=trust_remote_code)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Page:
    """Weights in memory for modules that have none: parameters and buffers, module by module."""

    values: Sequence[tuple[nn.Module, Mapping[str, Any], Mapping[str, Any]]]

    def apply(self) -> None:
        """Give the modules their weights."""
        for owner, parameters, buffers in self.values:
            owner._parameters.update(parameters)
            owner._buffers.update(buffers)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the modules have their weights; afterwards what they had before."""
        before = [
            (owner, {n: owner._parameters[n] for n in parameters}, {n: owner._buffers[n] for n in buffers})
            for owner, parameters, buffers in self.values
        ]
        try:
            self.apply()
            yield
        finally:
            Page(before).apply()


class Weights:
    """Finds the weights of each module of a skeleton on disk, loads them and unloads them.

    Raises:
        ModelError: a tensor of the model is packed in a way that is not decoded here.
    """

    def __init__(self, model: Any, checkpoint: Checkpoint, device: torch.device) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.device = device
        self._stored = StoredWeights(checkpoint)
        self._transforms, self._sources = _plan_loading(model, self._stored.names)
        for buffer_of in model.modules():
            buffer_of._buffers.update(
                {n: b.to(device) for n, b in buffer_of._buffers.items() if b is not None}
            )
        for name in chain.from_iterable(self._sources.values()):
            self._stored.check(name)

    def names(self, module: str, below: bool = True) -> list[str]:
        """The tensors on disk that make up a module, with or without (`below`) its submodules."""
        own = module + "."
        return [
            name
            for target, names in self._sources.items()
            if target.startswith(own) and (below or "." not in target[len(own) :])
            for name in names
        ]

    def live_bytes(self, module: str) -> int:
        """Bytes of a module's weights in the dtype that the model computes in."""
        values = self.model.get_submodule(module).parameters()
        return sum(value.numel() * value.itemsize for value in values)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors as stored, packed ones decoded. Touches no module, so it can run during a forward
        pass.
        """
        with torch.inference_mode(False):
            return {name: self._stored.read(name, self.model.dtype) for name in names}

    def table(self, module: str) -> str | None:
        """The tensor on disk that equals the weight of an embedding, row by row; None if there is
        no such tensor.
        """
        names = self._sources.get(f"{module}.weight", [])
        shape = tuple(self.model.get_submodule(module).weight.shape)
        found = len(names) == 1 and names[0] in self.checkpoint.tensors
        return names[0] if found and self.checkpoint.tensors[names[0]].shape == shape else None

    def rows(self, table: str, ids: Int[Tensor, " row"]) -> Shaped[Tensor, "row d_model"]:
        """Rows of a tensor on disk, in its stored dtype; `ids` must ascend."""
        runs: list[list[int]] = []
        for row in ids.tolist():
            if runs and row == runs[-1][1]:
                runs[-1][1] = row + 1
            else:
                runs.append([row, row + 1])
        return torch.cat([read_stored(self.checkpoint, table, first, last) for first, last in runs])

    @contextmanager
    def loaded(self, module: str, tensors: dict[str, Tensor], below: bool = True) -> Iterator[None]:
        """A context in which a module has its weights; afterwards it is empty again. `tensors`, the
        result of `read`, is emptied.

        Raises:
            ModelError: the checkpoint lacks a tensor of the module, or its shape differs.
        """
        with self.page(module, tensors, below).applied():
            yield

    def page(self, module: str, tensors: dict[str, Tensor], below: bool = True) -> Page:
        """The weights that a module lacks, ready to be used. `tensors`, the result of `read`, is
        emptied.

        Raises: as `loaded`.
        """
        root = self.model.get_submodule(module)
        modules = list(root.modules()) if below else [root]
        before = [(m, m._parameters.copy(), m._buffers.copy()) for m in modules]
        try:
            self._load(tensors)
            tensors.clear()
            for name, value in chain(root.named_parameters(recurse=below), root.named_buffers(recurse=below)):
                if value.is_meta:
                    raise ModelError(self._explain_lacking(f"{module}.{name}"))
            return Page(
                [
                    (
                        owner,
                        {
                            name: owner._parameters[name]
                            for name, value in parameters.items()
                            if _lacks(value)
                        },
                        {name: b for name, b in owner._buffers.items() if b is not buffers.get(name)},
                    )
                    for owner, parameters, buffers in before
                ]
            )
        finally:
            for owner, parameters, buffers in before:
                owner._parameters.update(parameters)
                owner._buffers.update(buffers)

    def load_vectors(self, modules: Iterable[str]) -> None:
        """Load all weights of one axis (gains of norms, biases) of these modules for good."""
        inside = tuple(f"{module}." for module in modules)
        state = self.model.state_dict()
        names = [
            name
            for target, stored in self._sources.items()
            if target.startswith(inside) and state[target].ndim < 2
            for name in stored
        ]
        self._load(self.read(names))

    def load_head(self) -> None:
        """Load the output head for good; that of a tied model gets the embedding's weight."""
        head = self.model.get_output_embeddings()
        if not is_empty(head):
            return
        path = next(name for name, module in self.model.named_modules() if module is head)
        names = self.names(path, below=False)
        if names:
            self.page(path, self.read(names), below=False).apply()
            return
        embedding = self.model.get_input_embeddings()
        table = self.table(next(name for name, m in self.model.named_modules() if m is embedding))
        if table is None:
            raise ModelError(self._explain_lacking(f"{path}.weight"))
        value = read_stored(self.checkpoint, table).to(self.device, head.weight.dtype)
        head.weight = nn.Parameter(value, requires_grad=False)

    def _explain_lacking(self, name: str) -> str:
        lacks = f"the checkpoint in {self.checkpoint.path} has no tensor for '{name}'"
        shared = (getattr(self.model, "all_tied_weights_keys", None) or {}).get(name)
        if shared is not None:
            return (
                f"{lacks}, which is the weight '{shared}' used once more, and a weight that several blocks "
                "share cannot be read block by block: load the model whole"
            )
        return f"{lacks}; {explain_missing([name], self.checkpoint.tensors)}"

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        dtype = self.model.dtype
        settings = LoadStateDictConfig(
            device_map={"": str(self.device)},
            dtype=dtype,
            dtype_plan=self.model._get_dtype_plan(dtype),
            weight_mapping=self._transforms,
        )
        # They may be used in a backward pass later, wherever they are read now.
        with quiet(), torch.inference_mode(False), torch.no_grad():
            info, _ = convert_and_load_state_dict_in_model(self.model, dict(tensors), settings)
            self.model.requires_grad_(False)
        for name, actual, expected in info.mismatched_keys:
            raise CheckpointError(
                f"'{name}' has the shape {list(actual)} in {self.checkpoint.path}, but config.json says "
                f"{list(expected)}"
            )
        for name, reason in info.conversion_errors.items():
            raise ModelError(f"transformers cannot convert '{name}': {quote_error(str(reason), 400)}")


def _plan_loading(model: Any, tensors: Iterable[str]) -> tuple[list[Any], dict[str, list[str]]]:
    """The conversions of transformers for this model, and for each live tensor the names of its
    tensors on disk.

    If one tensor on disk becomes several live ones, it is listed under the first: all belong to one
    block.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    state = model.state_dict()
    sources: dict[str, list[str]] = {}
    for name in tensors:
        target, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state and name in state:
            target = name
        if target in state:
            sources.setdefault(target, []).append(name)
    return transforms, sources


def check_class(model: Any, checkpoint: Checkpoint) -> None:
    """Check that a folder holds what the model class of its config.json loads, by names and shapes.
    Packed weights and those that transformers converts (fused experts) are not compared.

    Args:
        model: of `skeleton`.

    Raises:
        CheckpointError: a tensor is missing, which transformers would fill with random numbers, or
            has another shape.
    """
    from transformers.core_model_loading import WeightConverter

    if checkpoint.config.get("quantization_config"):
        return
    transforms, sources = _plan_loading(model, checkpoint.tensors)
    state = model.state_dict()
    if 2 * len(sources) < len(state):
        # Names of another class, as Emu3's; the architecture's own checks explain all others.
        return
    converted = [
        pattern.replace(r"\1", "").strip("^$.")
        for entry in transforms
        if isinstance(entry, WeightConverter)
        for pattern in entry.target_patterns
    ]
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    optional = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    for name, value in state.items():
        stored = sources.get(name, [])
        if any(part in name for part in converted) or (len(stored) != 1 and name in (*tied, *tied.values())):
            continue
        if not stored and not any(pattern.search(name) for pattern in optional):
            raise CheckpointError(
                f"the checkpoint lacks '{name}', which the model class of config.json has, and transformers "
                f"would fill it with random numbers; {explain_missing([name], checkpoint.tensors)}"
            )
        shape = checkpoint.tensors[stored[0]].shape if len(stored) == 1 else tuple(value.shape)
        if shape != tuple(value.shape):
            raise CheckpointError(
                f"'{stored[0]}' has shape {list(shape)!s:.120}, and {list(value.shape)!s:.120} is expected "
                f"by the model class of config.json; {OTHER_CONFIG}"
            )


def _lacks(value: Tensor | None) -> bool:
    return value is not None and value.is_meta


def is_empty(module: nn.Module) -> bool:
    """Whether any of its own parameters (not of submodules) has no value."""
    return any(map(_lacks, module._parameters.values()))
