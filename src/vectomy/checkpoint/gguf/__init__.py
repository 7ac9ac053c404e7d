"""GGUF files: container.py reads the head of one, rewrite.py writes it again with some tensors
changed, block_rounding.py in their own types (blocks.py takes those apart), names.py says what
transformers calls them.
"""

from vectomy.checkpoint.gguf.block_rounding import store_as
from vectomy.checkpoint.gguf.container import GgufFile, GgufTensor, check_installed, gguf_mark, is_gguf
from vectomy.checkpoint.gguf.names import GgufView, as_checkpoint, gguf_architecture, gguf_name
from vectomy.checkpoint.gguf.rewrite import Cost, GgufAdded, GgufChange, check_new, distance, rewrite_gguf

__all__ = [
    "Cost",
    "GgufAdded",
    "GgufChange",
    "GgufFile",
    "GgufTensor",
    "GgufView",
    "as_checkpoint",
    "check_installed",
    "check_new",
    "distance",
    "gguf_architecture",
    "gguf_mark",
    "gguf_name",
    "is_gguf",
    "rewrite_gguf",
    "store_as",
]
