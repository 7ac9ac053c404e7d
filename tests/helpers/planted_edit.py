"""Pairs of checkpoints, of which one has a planted edit or another change."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from zoo import zoo_model

BF16 = torch.bfloat16


@cache
def folder_of(label: str, dtype: torch.dtype = BF16) -> Path:
    path = Path(mkdtemp())
    zoo_model(label).to(dtype).save_pretrained(path)
    return path
