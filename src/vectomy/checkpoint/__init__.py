"""Model folders as they lie on disk: index.py checks and lists one, reader.py reads tensors, writer.py rewrites some."""

from vectomy.checkpoint.index import Checkpoint, TensorEntry
from vectomy.checkpoint.reader import fingerprint, read_tensor, sidecar_digest
from vectomy.checkpoint.writer import rewrite

__all__ = ["Checkpoint", "TensorEntry", "fingerprint", "read_tensor", "rewrite", "sidecar_digest"]
