"""Tiny random models of (nearly) every causal type that transformers has: `ZOO` is data, a row a
type or a structural variant.

Every number is random, gains, biases, experts and scalar multipliers too. No dimension equals
d_model where the type allows it, so an axis taken for another one does not fit.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from zoo_multimodal import MULTIMODAL, TOWER
from zoo_not_built import NOT_BUILT
from zoo_text import BASE, D_MODEL, ROWS, VOCAB

__all__ = [
    "D_MODEL",
    "NOT_BUILT",
    "VOCAB",
    "ZOO",
    "Specimen",
    "disk_layout",
    "randomise",
    "zoo_config",
    "zoo_folder",
    "zoo_load",
    "zoo_logits",
    "zoo_model",
    "zoo_tokens",
]


@dataclass(frozen=True)
class Specimen:
    """A model type and what its configuration changes from BASE (its towers' from TOWER);
    `multimodal` names the class that loads it.
    """

    model_type: str
    changes: dict[str, Any] = field(default_factory=dict)
    multimodal: bool = False

    @property
    def auto(self) -> type:
        return AutoModelForImageTextToText if self.multimodal else AutoModelForCausalLM


ZOO: dict[str, Specimen] = {label: Specimen(label.split(":")[0], row) for label, row in ROWS.items()} | {
    label: Specimen(label.split(":")[0], row, multimodal=True) for label, row in MULTIMODAL.items()
}


def _changes(config_class: type, base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` as far as the class has such a field, under its own name for it, then `changes`;
    sub-configurations likewise.
    """
    renamed = getattr(config_class, "attribute_map", {})
    fields = {f.name for f in dataclasses.fields(config_class)}
    # Some classes rename a field to a name that is no field.
    known = {name if (name := renamed.get(key, key)) in fields else key: value for key, value in base.items()}
    every = {key: value for key, value in known.items() if key in fields} | changes
    for key, sub_class in config_class.sub_configs.items():
        sub = every.get(key, {})
        if sub is not None:
            kind = CONFIG_MAPPING[sub["model_type"]] if "model_type" in sub else sub_class
            every[key] = _changes(kind, BASE if key == "text_config" else TOWER, sub)
    return every


def zoo_config(label: str) -> Any:
    specimen = ZOO[label]
    changes = _changes(CONFIG_MAPPING[specimen.model_type], BASE, specimen.changes)
    return AutoConfig.for_model(specimen.model_type, **changes, attn_implementation="eager")


# How far these may move from where the model starts them.
AROUND_THEIR_START = {"A_log": 0.2, "dt_bias": 0.2, "D": 0.3, "balancing_biases": 0.0}


def _spread(owner: nn.Module, name: str, value: Tensor) -> float:
    if isinstance(owner, nn.Embedding) or "embed" in name:
        return 1.0
    if isinstance(owner, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return value[0].numel() ** -0.5
    return value.shape[0 if type(owner).__name__ == "Conv1D" else -1] ** -0.5


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Matrices anew; vectors, scalars and state-space rates around what the model's own
    initialisation gave them.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = model.state_dict().keys()
    buffers = [(name, value) for name, value in model.named_buffers() if name in kept]
    for full, value in [*model.named_parameters(), *buffers]:
        if not value.is_floating_point():
            continue
        owner, _, name = full.rpartition(".")
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1 and name not in AROUND_THEIR_START:
            value.copy_(noise * _spread(model.get_submodule(owner), full, value))
        elif value.isfinite().all():
            value.add_(noise * AROUND_THEIR_START.get(name, 0.5))


def zoo_model(label: str, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZOO[label].auto.from_config(zoo_config(label), dtype=torch.float32).float().eval()
    randomise(model, seed)
    return model


def zoo_folder(label: str, path: Path) -> Path:
    zoo_model(label).save_pretrained(path)
    return path


def zoo_load(label: str, path: Path) -> PreTrainedModel:
    return ZOO[label].auto.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def zoo_tokens(batch: int = 3, length: int = 7, seed: int = 1) -> Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def zoo_logits(model: PreTrainedModel) -> Tensor:
    return model(input_ids=zoo_tokens(), use_cache=False).logits


def disk_layout(label: str, path: Path) -> dict[str, list[tuple[int, ...]]]:
    """Tensor names on disk, numbers collapsed to N, and the shapes found under each."""
    layout: dict[str, list[tuple[int, ...]]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                shapes = layout.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "N", name), [])
                shape = tuple(tensors.get_slice(name).get_shape())
                if shape not in shapes:
                    shapes.append(shape)
    return layout


def main(labels: list[str]) -> None:
    """The checkpoint layout of every label: what a table of writers has to name."""
    for label in labels or ZOO:
        with tempfile.TemporaryDirectory() as folder:
            layout = disk_layout(label, zoo_folder(label, Path(folder)))
            live = {re.sub(r"(?<=\.)\d+(?=\.|$)", "N", name) for name in zoo_model(label).state_dict()}
        sys.stdout.write(f"## {label}\n")
        for name, shapes in layout.items():
            sys.stdout.write(
                f"  {name} {' '.join(map(str, shapes))}{'' if name in live else '  (no such live name)'}\n"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
