"""GGUF files of tiny models, edited in place and held against the bake."""

from collections.abc import Callable

from gguf_files import SIZES
from tiny import Tiny, orthonormal
from torch import Tensor

WIDTH = SIZES["hidden_size"]
BIASED = {"attention_bias": True, "mlp_bias": True}
MODELS = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tied": True}),
    "llama-biases": ("llama", BIASED),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {"tied": True}),
    "qwen3": ("qwen3", {}),
    "smollm3": ("smollm3", {}),
    "arcee": ("arcee", {}),
    "granite": ("granite", {}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {}),
    "phi3": ("phi3", {}),
    "seed_oss": ("seed_oss", {}),
    "starcoder2": ("starcoder2", {"use_bias": True}),
}
Of = Callable[..., Tiny]


def one_of(tiny_of: Of, label: str) -> Tiny:
    """The tiny model `label`, of sizes that every GGUF type can hold."""
    model_type, changes = MODELS[label]
    return tiny_of(model_type, **changes, **SIZES)


def rows(k: int = 1, seed: int = 0) -> Tensor:
    return orthonormal(k, seed, WIDTH)
