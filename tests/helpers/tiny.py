"""Tiny random models of the known families, saved as folders, and the little that most tests do
with them.

Every parameter is random, gains and biases too: a norm with gain 1 or a zero bias hides the
mistakes that matter.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

# Its classes are imported where they are used: that takes seconds, and the unit tests need none.
if TYPE_CHECKING:
    from transformers import PreTrainedModel

WIDTH, LAYERS, VOCAB = 32, 4, 97
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
# Logits here are of order 1 to 10; float32 rounding through four blocks stays far below.
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}


@dataclass(frozen=True)
class Tiny:
    """A tiny model in memory and the folder that holds the same weights."""

    model: PreTrainedModel
    folder: Path


def tiny_config(model_type: str, **changes: object) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        model_type,
        **{
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": VOCAB,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "attn_implementation": "eager",
            **changes,
        },
    )


def random_model(model_type: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes)).float().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            spread = 1.0 if value.ndim == 1 or "embed" in name else value.shape[1] ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * spread)
    return model


def build(
    folder: Path, model_type: str, *, tied: bool = False, sharded: bool = False, **changes: object
) -> Tiny:
    model = random_model(model_type, tie_word_embeddings=tied, **changes)
    model.save_pretrained(folder, max_shard_size="24KB" if sharded else "1GB")
    (folder / "tokenizer.json").write_text('{"not": "read"}\n', encoding="utf-8")
    (folder / "extra").mkdir()
    (folder / "extra" / "template.jinja").write_text("{{ messages }}", encoding="utf-8")
    return Tiny(model, folder)


def load(folder: Path) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def tokens(batch: int = 3, length: int = 7, seed: int = 1) -> Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(tokens()).logits


def unit(seed: int = 0, width: int = WIDTH) -> Tensor:
    vector = torch.randn(width, generator=torch.Generator().manual_seed(100 + seed))
    return vector / vector.norm()


def orthonormal(k: int, seed: int = 0, width: int = WIDTH) -> Tensor:
    """k orthonormal rows."""
    return torch.linalg.qr(torch.stack([unit(seed + i, width) for i in range(k)]).T)[0].T.contiguous()


def file_hashes(folder: Path) -> dict[str, str]:
    """Content hash of every file under `folder`, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def hooked(model: torch.nn.Module) -> list[str]:
    """Modules that still carry a hook."""
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    ]
