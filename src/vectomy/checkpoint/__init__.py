"""Model folders as they lie on disk: index.py checks and lists one (safetensors_header.py reads a
file's header), reader.py reads tensors, writer.py rewrites some of them, shard by shard (shard.py),
as described by change.py.
"""

from vectomy.checkpoint.change import Added, Change
from vectomy.checkpoint.folder_architecture import architecture_in
from vectomy.checkpoint.index import Checkpoint, ModelSource
from vectomy.checkpoint.reader import (
    fingerprint,
    fingerprint_tensors,
    read_stored,
    read_tensor,
    sidecar_digest,
    tensor_hashes,
)
from vectomy.checkpoint.safetensors_header import TensorEntry
from vectomy.checkpoint.writer import rewrite

__all__ = [
    "Added",
    "Change",
    "Checkpoint",
    "ModelSource",
    "TensorEntry",
    "architecture_in",
    "fingerprint",
    "fingerprint_tensors",
    "read_stored",
    "read_tensor",
    "rewrite",
    "sidecar_digest",
    "tensor_hashes",
]
