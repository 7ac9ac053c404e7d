"""Which tensors of a model write to its residual stream. families.py is the data, resolve.py matches a model to it."""

from vectomy.architecture.families import FAMILIES, Family
from vectomy.architecture.resolve import Architecture, Writer, architecture_of, resolve

__all__ = ["FAMILIES", "Architecture", "Family", "Writer", "architecture_of", "resolve"]
