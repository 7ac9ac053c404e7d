"""GGUF files: container.py reads the head of one, rewrite.py writes it again with some tensors
changed, block_rounding.py in their own types (blocks.py takes those apart), names.py says what
transformers calls them; ggml_quantizer.py makes k-quants.
"""

from vectomy.checkpoint.gguf.block_rounding import store_as
from vectomy.checkpoint.gguf.container import GgufFile, GgufTensor, check_installed, gguf_mark, is_gguf
from vectomy.checkpoint.gguf.ggml_quantizer import (
    K_QUANTS,
    LLAMA_QUANTIZE,
    check_quantizer,
    mixed_type,
    store_with_ggml,
)
from vectomy.checkpoint.gguf.names import ARCHITECTURES, GgufView, as_checkpoint, gguf_architecture, gguf_name
from vectomy.checkpoint.gguf.rewrite import Cost, GgufAdded, GgufChange, check_new, distance, rewrite_gguf

__all__ = [
    "ARCHITECTURES",
    "K_QUANTS",
    "LLAMA_QUANTIZE",
    "Cost",
    "GgufAdded",
    "GgufChange",
    "GgufFile",
    "GgufTensor",
    "GgufView",
    "as_checkpoint",
    "check_installed",
    "check_new",
    "check_quantizer",
    "distance",
    "gguf_architecture",
    "gguf_mark",
    "gguf_name",
    "is_gguf",
    "mixed_type",
    "rewrite_gguf",
    "store_as",
    "store_with_ggml",
]
