"""Adapters as PEFT loads them, beside the other forms of the same edit."""

import warnings
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from zoo import D_MODEL

from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.component import COMPONENTS
from vectomy.edits.edit import BaseModelRef, Edit, Operation

CLOSE = 1e-4


def orthonormal(k: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(D_MODEL, k, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(drawn)[0].T.contiguous()


def untied(edit: Edit, folder: Path) -> Edit:
    """Less the token embedding, where the head shares it."""
    tied = architecture_in(Checkpoint.open(folder)).tied
    return edit.only(components=[name for name in COMPONENTS if name != "embedding"]) if tied else edit


def loaded(base: PreTrainedModel, adapter: Path) -> PeftModel:
    with warnings.catch_warnings():
        # Keys that PEFT misses are a warning only. Its other one, of ranks of parameters that it
        # ignores, is not true.
        warnings.filterwarnings("error", message=".*(missing adapter keys|no module was matched).*")
        return PeftModel.from_pretrained(base, str(adapter))


def apart(value: Tensor, wanted: Tensor) -> float:
    return ((value - wanted).abs().max() / wanted.abs().max()).item()


def wrapped(model: nn.Module) -> set[str]:
    """Writers that PEFT wraps, by the name of their parameter."""
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            parameter = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            found.add(name.removeprefix("base_model.model.").replace(".base_layer", "") + f".{parameter}")
    return found


def mixed(folder: Path, *operations: Operation) -> Edit:
    return Edit(BaseModelRef.of(Checkpoint.open(folder)), operations)
