"""Model folders as they lie on disk: index.py checks and lists one, reader.py reads tensors,
writer.py rewrites some, shard by shard (shard.py), as change.py lets a caller say.
"""

from vectomy.checkpoint.change import Added, Change
from vectomy.checkpoint.folder_architecture import architecture_in
from vectomy.checkpoint.index import Checkpoint, TensorEntry
from vectomy.checkpoint.reader import fingerprint, read_stored, read_tensor, sidecar_digest, tensor_hashes
from vectomy.checkpoint.writer import rewrite

__all__ = [
    "Added",
    "Change",
    "Checkpoint",
    "TensorEntry",
    "architecture_in",
    "fingerprint",
    "read_stored",
    "read_tensor",
    "rewrite",
    "sidecar_digest",
    "tensor_hashes",
]
