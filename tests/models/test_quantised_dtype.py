"""A quantised checkpoint whose other weights are bfloat16 (the layout of DeepSeek and Qwen) runs in
any dtype that is asked for, and computes what its decoded weights compute.
"""

import json
from pathlib import Path

import pytest
import torch
from quantised_folder import quantised
from safetensors.torch import load_file, save_file
from tiny import build, logits

from vectomy.checkpoint.quantization import decode, locate
from vectomy.checkpoint.reader import read_stored
from vectomy.models.loading import load_model

TIER = "tiny"


@pytest.mark.parametrize("kind", ["block", "tensor"])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_it_runs_in_every_dtype(kind: str, dtype: str, tmp_path: Path) -> None:
    tiny = build(tmp_path / "plain", "llama")
    file, config = tiny.folder / "model.safetensors", tiny.folder / "config.json"
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))
    packed = quantised(tiny.folder, kind, tmp_path)
    loaded = load_model(packed.path, dtype=dtype, tokenizer=False, device="cpu").model
    expected = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    assert {value.dtype for value in loaded.parameters()} == {expected}
    state = {}
    for name in tiny.model.state_dict():
        weight = locate(packed, name)
        state[name] = decode(weight, {part: read_stored(packed, part) for part in weight.parts}).float()
    tiny.model.load_state_dict(state)
    bound = 1e-4 if dtype == "float32" else 0.3
    torch.testing.assert_close(logits(loaded).float(), logits(tiny.model), rtol=bound, atol=bound)
