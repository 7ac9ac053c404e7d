"""Finds the writers of a model type that the table of families lacks: builds a small model of the
type with random weights and probes it (reduced_config.py).

The result is a family like those in architecture/families/, for this process only. It is checked
against the checkpoint: a tensor whose name the model does not know is an error.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vectomy.architecture import FAMILIES, REFUSED, Family, Norm, WriterSpec
from vectomy.architecture.norms import measure_gain
from vectomy.architecture.probe import ProbedWriter, probe
from vectomy.checkpoint import Checkpoint
from vectomy.core.component import Component
from vectomy.core.errors import ArchitectureError, ModelError, VectomyError
from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.progress import Progress, automatic
from vectomy.models.loading import loading
from vectomy.models.memory import SHARE, available_memory
from vectomy.models.quiet import quiet
from vectomy.models.reduced_config import reduce_config
from vectomy.models.weights import auto_class, read_model_config, skeleton

__all__ = ["probe_architecture"]

# The component of a writer, by a pattern in its name; the first match counts.
KINDS: tuple[tuple[str, Component], ...] = (
    (r"shared", "shared_experts"),
    (r"expert|moe", "experts"),
    (r"linear_attn|linear_attention|delta", "linear_attention"),
    (r"attn|attention|att\b", "attention"),
    (r"mamba|ssm|mixer|recurrent|rwkv|lstm", "ssm"),
    (r"conv", "conv"),
    (r"per_layer", "per_layer"),
    (r"", "mlp"),
)


def probe_architecture(
    path: str | Path, *, trust_remote_code: bool = False, progress: Progress = automatic
) -> Family | None:
    """Add an unknown model type to the families of this process. Needs no weights, and memory for
    one block of each kind; for the whole model in float32 where only that can be probed.

    Returns:
        The new family, or None if the type is already known.

    Raises:
        ArchitectureError: the probe cannot identify every writer, or the checkpoint names its
            tensors differently.
        ModelError: transformers does not know the type, or the model is too large for this machine.
    """
    checkpoint = Checkpoint.open(path)
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type in FAMILIES or model_type in REFUSED:
        return None
    with progress(f"probing the unknown type {model_type}", 3, "steps") as update:
        with loading(str(checkpoint.path), checkpoint.path):
            whole = skeleton(checkpoint, "float32", trust_remote_code)
        update(1)
        model, found = _probe_smallest(checkpoint, whole, trust_remote_code)
        update(1)
        family = _family(model, found)
        known = dict(whole.named_parameters(remove_duplicate=False)) | dict(whole.named_buffers())
        _check_names(checkpoint, model, known, family, found)
        FAMILIES[model_type] = family
        update(1)
    return family


def _probe_smallest(
    checkpoint: Checkpoint, whole: nn.Module, trust_remote_code: bool
) -> tuple[Any, list[ProbedWriter]]:
    """The smallest model of the type that can be built and probed, and its writers."""
    with loading(str(checkpoint.path), checkpoint.path):
        config = read_model_config(checkpoint, trust_remote_code)
    first: VectomyError | None = None
    for smaller in reduce_config(config, whole):
        try:
            with quiet():
                with torch.device("meta"):
                    empty = _build_random(smaller, trust_remote_code)
                if not _has_names(empty, whole) or not _fits(empty):
                    continue
                model = _build_random(smaller, trust_remote_code)
            return model, probe(model)
        except ArchitectureError as error:
            # Perhaps of the size: the whole model decides, where it can be built.
            first = first or error
        except Exception as error:
            if is_out_of_memory(error):
                raise
    if not _fits(whole):
        size = 4 * sum(parameter.numel() for parameter in whole.parameters())
        raise first or ModelError(
            f"the type '{checkpoint.config['model_type']}' is not known, and finding its writers needs the "
            f"whole model in memory, which takes {size / 2**30:.0f} GiB; use a larger machine, or a smaller "
            "model of this type to add it to architecture/families/"
        )
    with loading(str(checkpoint.path), checkpoint.path):
        model = _build_random(config, trust_remote_code)
    return model, probe(model)


def _fits(model: nn.Module) -> bool:
    return 4 * sum(parameter.numel() for parameter in model.parameters()) <= SHARE * available_memory()


def _has_names(model: nn.Module, whole: nn.Module) -> bool:
    """Whether every parameter of the small model is one of the whole."""
    return {name for name, _ in model.named_parameters()} <= {name for name, _ in whole.named_parameters()}


def _build_random(config: Any, trust_remote_code: bool) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto_class(config).from_config(
            config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    return model.eval().requires_grad_(False)


def _family(model: Any, found: list[ProbedWriter]) -> Family:
    blocks = next(row.module[: row.module.index(f".{row.layer}.")] for row in found if row.layer is not None)
    slots: dict[tuple[str, str], WriterSpec] = {}
    for row in found:
        if row.layer is None or _is_vector(model, row):
            continue
        prefix = f"{blocks}.{row.layer}."
        module, norms = row.module.removeprefix(prefix), [name.removeprefix(prefix) for name in row.norms]
        slots.setdefault((module, row.parameter), _slot(model, row, module, norms, _kind(module)))
    _check_kinds(blocks, found, slots)
    outside = [row for row in found if row.layer is None and not _is_vector(model, row)]
    outside.sort(key=lambda row: model.get_submodule(row.module) is not model.get_input_embeddings())
    if len(outside) > 2:
        raise ArchitectureError(
            f"more than two tensors start the residual stream ({', '.join(r.module for r in outside)}), "
            "which is not supported; add the type to architecture/families/"
        )
    kinds: tuple[Component, ...] = ("embedding", "position")
    text = model.config.get_text_config()
    return Family(
        blocks=blocks,
        slots=tuple(slots.values()),
        embeddings=tuple(
            _slot(model, r, r.module, list(r.norms), kind) for r, kind in zip(outside, kinds, strict=False)
        ),
        head=next(
            (name for name, module in model.named_modules() if module is model.get_output_embeddings()),
            "lm_head",
        ),
        mid=None,
        single=True,
        reads=("*",),
        outside=("*",),
        nested="text_config" if text is not model.config else None,
        names={
            key: text.attribute_map.get(key, key)
            for key in ("hidden_size", "num_hidden_layers", "vocab_size")
        },
        tied_by_default=bool(getattr(type(text)(), "tie_word_embeddings", False)),
    )


def _slot(model: Any, row: ProbedWriter, module: str, norms: list[str], kind: Component) -> WriterSpec:
    weight = model.get_parameter(f"{row.module}.{row.parameter}")
    passed = tuple(
        _norm(model.get_submodule(full), name, weight.shape[row.axis])
        for full, name in zip(row.norms, norms, strict=True)
    )
    bias = f"{module}.bias" if row.parameter == "weight" else f"{module}.{row.parameter}_bias"
    return WriterSpec(
        kind,
        module,
        f"{module}.{row.parameter}",
        bias,
        axis=row.axis,
        norms=passed,
        functional=kind in ("ssm", "linear_attention", "conv"),
    )


def _norm(module: nn.Module, name: str, width: int) -> Norm:
    measured = measure_gain(module, width)
    assert measured is not None, "the probe passes through norms alone"
    weight = getattr(module, "weight", None)
    offset = 0.0 if weight is None else round(float((measured.gain - weight.float()).mean()), 3)
    return Norm(name, offset, measured.centred, learned=weight is not None)


def _kind(module: str) -> Component:
    return next(kind for pattern, kind in KINDS if re.search(pattern, module.lower()))


def _is_vector(model: Any, row: ProbedWriter) -> bool:
    """Whether the row is a bias; its writer is found by the matrix."""
    return row.parameter.endswith("bias") or model.get_parameter(f"{row.module}.{row.parameter}").ndim == 1


def _check_kinds(
    blocks: str, found: Iterable[ProbedWriter], slots: dict[tuple[str, str], WriterSpec]
) -> None:
    seen: dict[tuple[int, Component], str] = {}
    for row in found:
        if row.layer is None:
            continue
        module = row.module.removeprefix(f"{blocks}.{row.layer}.")
        slot = slots.get((module, row.parameter))
        if slot is None:
            continue
        other = seen.setdefault((row.layer, slot.component), module)
        if other != module:
            raise ArchitectureError(
                f"both '{other}' and '{module}' of layer {row.layer} look like its {slot.component}; name "
                "them in architecture/families/"
            )


def _check_names(
    checkpoint: Checkpoint,
    model: Any,
    known: Collection[str],
    family: Family,
    found: Iterable[ProbedWriter],
) -> None:
    """Check that the model knows every tensor by name, and that every bias belongs to a writer.

    Args:
        known: the tensors of the whole model.
    """
    for name in checkpoint.tensors:
        if name not in known:
            raise ArchitectureError(
                f"tensor '{name}' does not exist in the model that transformers builds for "
                f"'{checkpoint.config['model_type']}', so its "
                "role is not known; add the type to architecture/families/"
            )
    spoken = {slot.live_bias for slot in (*family.slots, *family.embeddings)}
    for row in found:
        name = f"{row.module}.{row.parameter}"
        inside = name.removeprefix(f"{family.blocks}.{row.layer}.")
        behind_norm = any(
            row.module.endswith(norm.module) and norm.centred
            for s in (*family.slots, *family.embeddings)
            for norm in s.norms
        )
        if _is_vector(model, row) and inside not in spoken and not behind_norm:
            raise ArchitectureError(
                f"'{name}' writes to the residual stream but belongs to no known writer; add the type to "
                "architecture/families/"
            )
