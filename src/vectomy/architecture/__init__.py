"""What of a model writes to its residual stream.

families.py and readers.py are the data, writers.py and resolve.py match a model to it; probe.py
finds the same by numbers, with no table; norms.py is the algebra of what stands between a writer
and the stream.
"""

from vectomy.architecture.families import FAMILIES, REFUSED, Family, Norm, WriterSpec
from vectomy.architecture.resolve import MIXERS, Architecture, architecture_of, resolve
from vectomy.architecture.writers import PostNorm, TensorRef, Writer

__all__ = [
    "FAMILIES",
    "MIXERS",
    "REFUSED",
    "Architecture",
    "Family",
    "Norm",
    "PostNorm",
    "TensorRef",
    "Writer",
    "WriterSpec",
    "architecture_of",
    "resolve",
]
