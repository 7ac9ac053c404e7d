"""The writers of a model: everything that writes to its residual stream.

families/ and readers.py are the tables. resolve.py matches a model to a family, writers.py lists
its writers (model_architecture.py), and tensor_coverage.py checks that no tensor is unknown. probe/
finds the writers numerically, without a table. norms.py folds directions through the norms between
a writer and the stream.
"""

from vectomy.architecture.families import FAMILIES, REFUSED, Family, Norm, WriterSpec
from vectomy.architecture.model_architecture import MIXERS, Architecture
from vectomy.architecture.resolve import architecture_of, resolve
from vectomy.architecture.tensor_coverage import check_covered, excluded_tensors
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
    "check_covered",
    "excluded_tensors",
    "resolve",
]
