"""Launches on several cards."""

from pathlib import Path

import pytest
import torch

from vectomy.core.errors import ModelError
from vectomy.healing.launching import launch

TIER = "unit"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
@pytest.mark.parametrize("name", ["ddp", "zero2", "zero3", "fsdp"])
def test_launches_on_cards_are_refused_by_name_without_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"--launch {name} runs on CUDA cards"):
        launch(tmp_path, name, 2)
