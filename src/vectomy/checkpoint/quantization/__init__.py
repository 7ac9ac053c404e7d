"""How one logical weight is stored: scheme.py reads config.json, layout.py finds a weight's
tensors, requantize.py edits it.

Formats are described by fp8.py, mxfp4.py and integer_groups.py (GPTQ, AWQ: read, never written);
rounding.py puts edited values back on their grids
without losing the edit.
"""

from vectomy.checkpoint.quantization.layout import (
    PackedWeight,
    companions,
    count_written_bytes,
    integer_weights,
    locate,
)
from vectomy.checkpoint.quantization.packed_width import packed_width, stays_packed
from vectomy.checkpoint.quantization.requantize import Requantized, decode, encode, requantize
from vectomy.checkpoint.quantization.scheme import OTHER_FILES, Scheme, check_supported, drop_quantization

__all__ = [
    "OTHER_FILES",
    "PackedWeight",
    "Requantized",
    "Scheme",
    "check_supported",
    "companions",
    "count_written_bytes",
    "decode",
    "drop_quantization",
    "encode",
    "integer_weights",
    "locate",
    "packed_width",
    "requantize",
    "stays_packed",
]
