"""Edits written by hand, without a model."""

import torch
from tiny import LAYERS, VOCAB, WIDTH, orthonormal, unit

from vectomy.edits.edit import BaseModelRef, Edit, Operation

BASE = BaseModelRef("llama", WIDTH, LAYERS, VOCAB, "0" * 64, "tiny")


def operation(component: str = "mlp", layer: int | None = 1, k: int = 1, **changes: object) -> Operation:
    rows = unit()[None] if k == 1 else orthonormal(k)
    values = {"component": component, "layer": layer, "basis": rows, "strengths": torch.ones(k), **changes}
    return Operation(**values)


def same(one: Edit, other: Edit) -> bool:
    return one.to_bytes() == other.to_bytes()
